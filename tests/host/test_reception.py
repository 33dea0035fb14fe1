"""Enrolment over the network: a machine without a login answers its operator, and nobody else."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.kit import PASSPHRASE, Party
from host.road import Road
from perunml.api.enrolment import AtHost, EnrolAnswer, EnrolChallenge, Enrolled
from perunml.client.enrolling import HostDoor, enrol_at
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.host.boot import PIN, SETTINGS, HostSettings
from perunml.host.enrol import FILE, membership
from perunml.host.reception import BEGIN, BOOT_LOG, KEEP, MAX_BODY, Enrolling, Reception
from perunml.wire.errors import AgreementRefusal, IntegrityError, Unreachable, UsageError
from perunml.wire.httpsig import sign_request
from perunml.wire.identity import SigningKey

LOG = b"a boot log"


@pytest.fixture
def reception(road: Road, tmp_path: Path) -> Iterator[Reception]:
    (tmp_path / "eventlog").write_bytes(LOG)
    enrolling = Enrolling(road.pin, road.tpm, road.agent_folder, tmp_path / "eventlog")
    made = Reception(enrolling, road.cloud.identity.signing.public, "127.0.0.1:0")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def address(reception: Reception) -> str:
    return f"127.0.0.1:{reception.port}"


def send(address: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def code(answer: bytes) -> str:
    return str(json.loads(answer)["reasons"][0]["code"])


def test_an_operator_enrols_a_machine_whose_key_stays_where_it_was_made(road: Road, address: str) -> None:
    """As `host enrol` does on the machine itself: the certificate lies in the agent's folder, and the agent is a member."""
    with HostDoor(address, road.cloud.identity.signing) as door:
        done = enrol_at(door, road.cloud.connection, AtHost(name="gpu-7"))
    member = membership(road.pin, road.tpm.machine, road.agent_folder)
    assert (done.machine, member.machine) == (road.tpm.machine, road.tpm.machine)
    assert member.key.decode() not in done.encode().decode()


def test_the_operator_fetches_the_boot_log(road: Road, address: str) -> None:
    with HostDoor(address, road.cloud.identity.signing) as door:
        assert door.boot_log() == LOG


@pytest.mark.parametrize("path", [BEGIN, BOOT_LOG, KEEP])
def test_another_party_is_no_operator(road: Road, address: str, path: str) -> None:
    """A valid signature by a key that the settings do not name."""
    body = AtHost(name="x").encode()
    signed = sign_request("POST", f"http://{address}{path}", body, road.hospital.identity.signing, int(time.time()))
    status, answer = send(address, path, body, signed)
    assert (status, code(answer)) == (403, "enrolment_strange")


def test_an_unsigned_request_is_refused(address: str) -> None:
    status, answer = send(address, BEGIN, b"{}", {})
    assert (status, code(answer)) == (403, "request_unsigned")


def test_a_signature_over_another_body_or_path_is_refused(road: Road, address: str) -> None:
    body = AtHost(name="gpu-7").encode()
    signed = sign_request("POST", f"http://{address}{BEGIN}", body, road.cloud.identity.signing, int(time.time()))
    for path, sent in ((BEGIN, AtHost(name="gpu-8").encode()), (KEEP, body)):
        status, answer = send(address, path, sent, signed)
        assert (status, code(answer)) == (403, "request_unsigned")


def test_a_request_that_came_before_is_refused(road: Road, address: str) -> None:
    body = AtHost(name="gpu-7").encode()
    signed = sign_request("POST", f"http://{address}{BEGIN}", body, road.cloud.identity.signing, int(time.time()))
    assert send(address, BEGIN, body, signed)[0] == 200
    status, answer = send(address, BEGIN, body, signed)
    assert (status, code(answer)) == (403, "request_stale")


def test_an_old_request_is_refused(road: Road, address: str) -> None:
    body = AtHost(name="gpu-7").encode()
    signed = sign_request("POST", f"http://{address}{BEGIN}", body, road.cloud.identity.signing, int(time.time()) - 600)
    status, answer = send(address, BEGIN, body, signed)
    assert (status, code(answer)) == (403, "request_stale")


@pytest.mark.parametrize(("path", "length"), [("/", 2), ("/v1/enrolment/", 2), (BEGIN, MAX_BODY + 1)])
def test_what_is_no_question_or_too_long_is_not_read(address: str, path: str, length: int) -> None:
    status, answer = send(address, path, b"x" * length, {})
    assert (status, answer) == (404, b"")


def test_a_challenge_before_the_beginning_is_refused(road: Road, address: str) -> None:
    challenge = EnrolChallenge(enrolment="x", credential=b"", encrypted_secret=b"", nonce=b"")
    with HostDoor(address, road.cloud.identity.signing) as door, pytest.raises(AgreementRefusal) as found:
        door.answer(challenge)
    assert found.value.code == "enrolment_strange"


def test_a_certificate_for_another_key_is_not_kept(road: Road, address: str, tmp_path: Path) -> None:
    """The operator's machine is tricked into bringing another machine's certificate."""
    road.enrol()
    kept = json.loads((road.agent_folder / FILE).read_bytes())
    before = (road.agent_folder / FILE).read_bytes()
    other = Enrolled(**{name: kept[name] for name in ("machine", "simulated", "certificate", "expires")})
    with HostDoor(address, road.cloud.identity.signing) as door:
        door.begin(AtHost(name="gpu-7"))
        with pytest.raises(IntegrityError) as found:
            door.keep(other)
    assert found.value.code == "delivery_mismatch"
    assert (road.agent_folder / FILE).read_bytes() == before


def test_a_machine_that_asks_under_another_name_than_its_operator_is_refused(road: Road, address: str) -> None:
    class Liar(HostDoor):
        def begin(self, asked: AtHost):  # type: ignore[no-untyped-def]
            return super().begin(asked.model_copy(update={"name": "another"}))

        def answer(self, challenge: EnrolChallenge) -> EnrolAnswer:
            raise AssertionError("the manager was asked")

    with Liar(address, road.cloud.identity.signing) as door, pytest.raises(Unreachable):
        enrol_at(door, road.cloud.connection, AtHost(name="gpu-7"))


def test_an_address_that_is_taken_is_told(reception: Reception, road: Road) -> None:
    enrolling = Enrolling(road.pin, road.tpm, road.agent_folder)
    with pytest.raises(UsageError) as found:
        Reception(enrolling, road.cloud.identity.signing.public, f"127.0.0.1:{reception.port}")
    assert found.value.code == "enrolment_address"


@pytest.mark.parametrize("address", ["", "host", "host:", "http://host:1", "user@host:1", "host:1/x", "host:99999"])
def test_a_machine_is_reached_at_host_and_port(address: str) -> None:
    with pytest.raises(UsageError):
        HostDoor(address, SigningKey.generate())


# The settings.


def settings(folder: Path, road: Road, text: str) -> Path:
    folder.mkdir()
    (folder / SETTINGS).write_text(text.replace("KEY", road.cloud.key))
    (folder / PIN).write_bytes(road.pin.to_file())
    return folder


def test_settings_are_read(road: Road, tmp_path: Path) -> None:
    folder = settings(
        tmp_path / "disk", road, 'apiVersion: perunml/v1\nkind: Host\noperator: "KEY"\nunpack_at_most: 1GiB\n'
    )
    (folder / "ek-chain").mkdir()
    (folder / "ek-chain" / "issuer.pem").write_text("x")
    found = HostSettings.read(folder)
    assert (found.operator.text, found.unpack_at_most, found.attester) == (road.cloud.key, 1 << 30, ("tpm",))
    assert found.ek_chain == (folder / "ek-chain" / "issuer.pem",)


@pytest.mark.parametrize(
    "more",
    ["operater: x", "tcti: cmd:sh", "event_log: /tmp/x", "ima_log: /tmp/x", "attester: [simulated]", "attester: []",
     "enrol_listen: 1", "kind: Host", "- x", "attester: tpm"],
)  # fmt: skip
def test_settings_that_an_operator_may_not_make_are_refused(road: Road, tmp_path: Path, more: str) -> None:
    """Above all: no transport of the TPM's, which may name a program, and no log of the operator's own."""
    base = 'apiVersion: perunml/v1\nkind: Host\noperator: "KEY"\n'
    folder = settings(tmp_path / "disk", road, f"{base}{more}\n")
    with pytest.raises(UsageError) as found:
        HostSettings.read(folder)
    assert found.value.code == "settings_odd"


def test_an_unknown_setting_names_the_nearest(road: Road, tmp_path: Path) -> None:
    folder = settings(tmp_path / "disk", road, "apiVersion: perunml/v1\nkind: Host\noperater: x\n")
    with pytest.raises(UsageError) as found:
        HostSettings.read(folder)
    assert found.value.reasons[0].expected == "did you mean `operator`?"


def test_a_folder_without_a_pin_says_so(road: Road, tmp_path: Path) -> None:
    folder = settings(tmp_path / "disk", road, 'apiVersion: perunml/v1\nkind: Host\noperator: "KEY"\n')
    (folder / PIN).unlink()
    with pytest.raises(UsageError, match=r"pin\.json"):
        HostSettings.read(folder)


# The command line.


def test_boot_and_boot_log_speak_json(reception: Reception, road: Road, tmp_path: Path) -> None:
    party = Party(tmp_path / "home")
    party.ok("id", "create", "--name", "gpu-cloud")
    said = party("host", "boot", "-o", "json", str(tmp_path))
    assert said.reasons == ["settings_odd"]
    own = Identity.open(Home(party.home), PASSPHRASE).signing
    reception._operator = own.public
    Home(party.home).save_pin(road.pin)
    out = tmp_path / "fetched"
    words = ("host", "boot-log", "-o", "json", "--at", f"127.0.0.1:{reception.port}", "--out", str(out))
    assert party.ok(*words) == {"file": str(out), "size": len(LOG)}
    assert out.read_bytes() == LOG


def test_enrolling_elsewhere_takes_nothing_of_this_machine(tmp_path: Path) -> None:
    party = Party(tmp_path / "home")
    said = party("host", "enrol", "--at", "127.0.0.1:1", "--name", "x", "--folder", str(tmp_path / "f"))
    assert said.code == 2
