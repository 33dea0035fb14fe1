"""A TEE's host on the whole road: enrolled by its evidence, judged by the agreement's rules, renewed, refused. Over real TLS."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manager.road import Road
from manager.world import Host, World, code_of
from perunml.agreements.document import agreement_from_json
from perunml.api.enrolment import EnrolAnswer, EnrolRequest, EnrolTee
from perunml.attesters.tee import TeeAttester
from perunml.evidence.binding import binding, tee_report_data
from perunml.evidence.bundle import Bundle
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.parts import SnpPart
from perunml.evidence.snp.verify import verify_snp
from perunml.manager import machines, setup
from perunml.testing.forge import ForgedTpm, Quoting, default_ca
from perunml.testing.snp import AmdCa, ForgedChip
from perunml.wire.canonical import canonical
from perunml.wire.dsse import signed
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey

COLLECTOR = SigningKey.generate()
AMD = AmdCa()
RULES: dict[str, Any] = {
    "measurement": ["11" * 48],
    "products": ["Milan"],
    "min_tcb": {"bootloader": 4, "snp": 24},
    "host_data": "5a" * 32,
}


class ChipSource:
    """A chip that makes reports as its guest's kernel hands them out; `told` are fields that it tells otherwise."""

    kind = "snp"

    def __init__(self, number: int) -> None:
        self.chip = ForgedChip(AMD, chip_id=bytes([number]) * 64)
        self.told: dict[str, object] = {"host_data": b"\x5a" * 32}
        self.start()

    def start(self) -> None:
        """The guest is launched: AMD's firmware gives it a report id of its own."""
        self.told["report_id"] = os.urandom(32)

    def report(self, report_data: bytes) -> SnpPart:
        return SnpPart(self.chip.report(report_data, **self.told), self.chip.chain)


class Both:
    """A machine with a TPM and a TEE: both for each exchange."""

    def __init__(self, tpm: ForgedTpm, tee: TeeAttester) -> None:
        self.tpm, self.tee, self.machine = tpm, tee, tpm.machine

    def enrolment(self) -> dict[str, Any]:
        return self.tpm.enrolment()

    def activate(self, credential: bytes, encrypted_secret: bytes) -> bytes:
        return self.tpm.activate(credential, encrypted_secret)

    def collect(self, bound: bytes) -> Bundle:
        quote = self.tpm.quote(bound, Quoting(banks=[("sha256", range(16))]))
        return Bundle((quote, *self.tee.collect(bound).parts))

    def accepted(self, bundle: Bundle) -> None: ...
    def forget(self) -> None: ...


class TeeWorld(World):
    """A manager that was told of a development root of TEEs, and whose operator keeps collateral."""

    def __init__(self, folder: Path, ek_roots: Sequence[Path] = ()) -> None:
        super().__init__(folder)
        self.stop()
        again = folder / "again"
        roots = [folder / "ek.der", folder / "ark.der"]
        for path, root in zip(roots, (default_ca().root, AMD.root), strict=True):
            path.write_bytes(root)
        setup.init(
            again, b"a passphrase for tests", url="https://127.0.0.1:1", simulated_ek_roots=[*roots[:1], *ek_roots],
            simulated_tee_roots=roots[1:], collateral_signers=[COLLECTOR.public.text],
        )  # fmt: skip
        self.folder, self.port = again, 0
        self.keep(AMD.revocations())
        self.start()

    def keep_certificates(self, certificates: Sequence[bytes]) -> None:
        """Chips' certificates beside the list, for hosts whose hypervisor hands none out."""
        self.keep(AMD.revocations(), certificates=certificates)
        time.sleep(2.1)  # the folder is looked at every two seconds

    def keep(self, *crls: bytes, certificates: Sequence[bytes] = ()) -> None:
        """The operator's bundle of collateral."""
        body = Collateral(int(time.time()), certificates=tuple(certificates), crls=crls).as_json()
        part = self.folder / "collateral" / "new"
        part.write_bytes(signed("Collateral", body, COLLECTOR).encode())
        part.replace(self.folder / "collateral" / "amd.json")

    def enrol_tee(
        self, operator: SigningKey, name: str, attester: TeeAttester, *, of: str = "", tls: SigningKey | None = None
    ) -> Host:
        setup.admit(self.folder, [operator.public.text])
        tls = tls or SigningKey.generate()
        link = self.anonymous()
        request = EnrolRequest(machine=EnrolTee(kind="tee", name=name, tls_key=tls.public.text))
        challenge = link.enrol(request, operator)
        bound = binding(
            purpose="enrol", nonce=challenge.nonce, role="host", session_hpke="", session_tls=of or tls.public.text,
            manager=self.pin.identity, agreement="", run="", host="", payload="",
        )  # fmt: skip
        answer = EnrolAnswer(answer=canonical(attester.collect(bound).as_json()))
        enrolled = link.answer_enrolment(challenge.enrolment, answer, operator)
        return Host(attester, enrolled, tls, self.link(enrolled.certificate, tls))


class TeeRoad(Road):
    """Trains on a TEE; `profile` may say another one."""

    def __post_init__(self) -> None:
        self.source = ChipSource(1)
        self.profile: dict[str, Any] = {"profile": "simulated", "imitates": "tee", "snp": RULES}
        super().__post_init__()
        assert isinstance(self.world, TeeWorld)
        self.tee = self.world.enrol_tee(self.keys["cloud"], "tee", Named(TeeAttester(self.source)))
        self.tee.attester.machine = self.tee.machine

    def document(self) -> dict[str, Any]:
        made = super().document()
        made["hosts"]["trainer"] = self.profile
        return made

    def agree(self, profile: dict[str, Any], name: str) -> None:
        """Another agreement, whose training wants another profile."""
        self.profile = profile
        made = self.document()
        made["metadata"]["name"] = name
        self.agreement = agreement_from_json(made)
        self.in_force(self.agreement)


class Named(TeeAttester):
    """As the agent has it: its machine is called as it was enrolled."""

    machine = ""  # type: ignore[assignment]  # set once it is enrolled

    def __init__(self, inner: TeeAttester) -> None:
        super().__init__(inner._source, inner._key)


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeeRoad]:
    folder = tmp_path_factory.mktemp("tees")
    world = TeeWorld(folder)
    yield TeeRoad(world, folder)
    world.close()


def refused(road: TeeRoad, host: Host) -> list[str]:
    """The codes with which a fresh run's release is refused."""
    run = road.submit().run
    with pytest.raises(PerunError) as caught:
        road.release(run, host)
    return [reason.code for reason in caught.value.reasons]


def test_a_tee_takes_a_run_renews_and_finishes(road: TeeRoad) -> None:
    """ACCEPT: enrolled under its chip's name, released, renewed twice, a sealed output."""
    assert road.tee.machine.startswith("chip:sha256:")
    assert road.tee.enrolled.simulated
    run = road.submit().run
    session, delivery = road.release(run, road.tee)
    assert delivery.inputs["scans"].key == bytes(road.scans.key)
    session.renew()
    session.renew()
    sealed = road.output(session, delivery)
    session.finish({"model": sealed.digest})
    assert road.run(run).state == "finished"


BROKEN = [
    ("measurement_mismatch", {"measurement": bytes(48)}),
    ("configuration_mismatch", {"host_data": bytes(32)}),
    ("debug_enabled", {"policy": 1 << 17 | 1 << 19}),
    ("vmpl", {"vmpl": 1}),
]


@pytest.mark.parametrize(("code", "told"), BROKEN, ids=[code for code, _ in BROKEN])
def test_a_tee_in_another_state_gets_no_keys(road: TeeRoad, code: str, told: dict[str, object]) -> None:
    """T2, T11, T19, by the manager's own judgement."""
    before = dict(road.source.told)
    road.source.told |= told
    try:
        assert refused(road, road.tee) == [code]
    finally:
        road.source.told = before


def test_c14_a_renewal_in_another_state_ends_the_lease(road: TeeRoad) -> None:
    """C14: whatever is reported at a renewal is judged anew."""
    session, _ = road.release(road.submit().run, road.tee)
    before = dict(road.source.told)
    road.source.told |= {"vmpl": 2}
    try:
        assert code_of(session.renew) == "vmpl"
    finally:
        road.source.told = before
    assert code_of(session.renew) != ""


def test_t21_another_chip_than_the_enrolled_one_gets_no_keys(road: TeeRoad) -> None:
    """T21: genuine evidence of another chip, by a host that holds the enrolled one's certificate."""
    other = Named(TeeAttester(ChipSource(9)))
    other.machine = road.tee.machine  # type: ignore[assignment]
    assert refused(road, replace(road.tee, attester=other)) == ["wrong_device"]


def test_an_enrolment_for_another_key_is_refused(road: TeeRoad) -> None:
    """C2: evidence that was made for another TLS key than the one that is enrolled."""
    assert isinstance(road.world, TeeWorld)
    thief = SigningKey.generate().public.text
    attester = TeeAttester(ChipSource(2))
    assert code_of(lambda: road.world.enrol_tee(road.keys["cloud"], "thief", attester, of=thief)) == "binding_mismatch"  # type: ignore[attr-defined]


def test_k8_one_chip_has_one_name_and_operator(road: TeeRoad) -> None:
    """K8, K14: neither another name for the chip, nor another chip for the name, nor another operator."""
    world, cloud = road.world, road.keys["cloud"]
    assert isinstance(world, TeeWorld)
    assert code_of(lambda: world.enrol_tee(cloud, "other-name", TeeAttester(road.source))) == "identity_conflict"
    assert code_of(lambda: world.enrol_tee(cloud, "tee", TeeAttester(ChipSource(3)))) == "identity_conflict"
    stranger = road.keys["hospital"]
    assert code_of(lambda: world.enrol_tee(stranger, "tee", TeeAttester(road.source))) == "identity_conflict"
    again = world.enrol_tee(cloud, "tee", TeeAttester(road.source))
    assert again.machine == road.tee.machine
    road.tee = replace(again, attester=road.tee.attester)  # the certificate of before is worth nothing now


def test_k8_a_tees_enrolment_touches_no_tpms_record(road: TeeRoad) -> None:
    """The TPM's machine of the same operator is what it was."""
    before = kept(road.world, road.trainer.machine)
    road.world.enrol_tee(road.keys["cloud"], "one-more", TeeAttester(ChipSource(4)))  # type: ignore[attr-defined]
    assert kept(road.world, road.trainer.machine) == before


def kept(world: World, machine: str) -> machines.StoredMachine:
    assert world.server is not None
    with world.server.services.database.read() as connection:
        return machines.load(connection, machine)


def test_n7_an_answer_that_is_no_evidence_is_refused(road: TeeRoad) -> None:
    """The answer's form; the enrolment is over with it."""

    class Odd(TeeAttester):
        def collect(self, bound: bytes) -> Any:
            class Said:
                def as_json(self) -> Any:
                    return {"parts": []}

            return Said()

    odd = Odd(ChipSource(5))
    assert code_of(lambda: road.world.enrol_tee(road.keys["cloud"], "odd", odd)) == "malformed"  # type: ignore[attr-defined]


def test_a_simulated_machine_does_not_pass_for_a_tee(road: TeeRoad) -> None:
    """A bare key imitates a TEE only where the agreement wrote no rules."""
    assert "wrong_profile" in refused(road, road.server) or "profile_not_met" in refused(road, road.server)


def test_a_tpm_does_not_pass_for_a_tee(road: TeeRoad) -> None:
    """T17, T22: the part that the profile demands is missing."""
    assert "part_missing" in refused(road, road.trainer)


def test_t6_without_collateral_in_force_nothing_is_released(road: TeeRoad) -> None:
    """T6, G5: the operator's list is past its time; a new one needs no restart."""
    world = road.world
    assert isinstance(world, TeeWorld)
    assert world.server is not None
    old = AMD.revocations(until=dt.datetime(2025, 1, 1, tzinfo=dt.UTC))
    world.keep(old)
    time.sleep(2.1)  # the folder is looked at every two seconds
    assert refused(road, road.tee) == ["revocation_missing"]
    world.keep(AMD.revocations())
    time.sleep(2.1)
    road.release(road.submit().run, road.tee)


def test_a_machine_that_the_role_does_not_pin_gets_no_keys(road: TeeRoad) -> None:
    """T21: platform ids in `machines`."""
    before = road.agreement
    pinned = {"profile": "simulated", "imitates": "tee", "snp": RULES, "machines": ["chip:sha256:" + "0" * 64]}
    road.agree(pinned, "pinned-elsewhere")
    assert code_of(lambda: road.release(road.submit().run, road.tee)) != ""
    road.agree({**pinned, "machines": [road.tee.machine]}, "pinned-here")
    road.source.start()
    road.release(road.submit().run, road.tee)
    road.source.start()
    road.agreement = before


def test_a_launch_serves_one_agreement(road: TeeRoad) -> None:
    """DESIGN section 6: keys of another agreement only after the guest was launched anew, which SNP's report id tells."""
    before = road.agreement
    road.release(road.submit().run, road.tee)
    road.agree({"profile": "simulated", "imitates": "tee", "snp": RULES}, "another-agreement")
    assert refused(road, road.tee) == ["boot_used_by_other_agreement"]
    road.source.start()
    road.release(road.submit().run, road.tee)
    road.agreement = before
    assert refused(road, road.tee) == ["boot_used_by_other_agreement"]
    road.source.start()
    road.release(road.submit().run, road.tee)


def chip_of(bundle: Bundle) -> str:
    """The identity of the chip in a bundle, as enrolment would find it."""
    part = next(part for part in bundle.parts if isinstance(part, SnpPart))
    known = Endorsements(Collateral(), (AMD.root,))
    return verify_snp(part.report, part.certificates, known, now=int(time.time())).value.platform


def both(road: TeeRoad, number: int, tee: int = 0) -> Host:
    """A host with a TPM and a TEE, enrolled by its TPM; `tee` is the chip of another machine."""
    source = ChipSource(tee or number)
    return road.world.enrol(road.keys["cloud"], f"both-{number}", Both(ForgedTpm(), TeeAttester(source)))


def test_tee_and_tpm_bound_by_an_approved_pair(road: TeeRoad) -> None:
    """`all_of` with `binder: machines`: the pair is released to, and the cuckoo (its TPM beside another TEE) is not."""
    before = road.agreement
    host = both(road, 20)
    assert road.world.server is not None
    bundle = host.attester.collect(bytes(48))
    chip = chip_of(bundle)
    road.push_baseline(host.attester.tpm)
    profile = {
        "all_of": [
            {"profile": "simulated", "imitates": "tee", "snp": RULES},
            {"profile": "simulated", "imitates": "measured", "baseline": host.attester.tpm.baseline().digest},
        ],
        "binder": "machines",
        "machines": [f"{host.machine}+{chip}"],
    }
    road.agree(profile, "pairs")
    session, delivery = road.release(road.submit().run, host)
    assert delivery.inputs["scans"].key == bytes(road.scans.key)
    session.renew()
    cuckoo = replace(host, attester=Both(host.attester.tpm, TeeAttester(ChipSource(21))))
    assert refused(road, cuckoo) == ["machine_not_agreed"]
    road.agreement = before


def test_rules_that_cannot_be_read_are_refused_when_proposed(road: TeeRoad) -> None:
    """A typing error is no silent loosening: at the proposal, before anybody approves."""
    made = road.document()
    made["metadata"]["name"] = "misspelt"
    made["hosts"]["trainer"] = {
        "profile": "simulated", "imitates": "tee", "snp": {"measurment": ["11" * 48]},
    }  # fmt: skip
    with pytest.raises(PerunError) as caught:
        road.propose(agreement_from_json(made))
    assert caught.value.code == "malformed"
    assert "measurment" in caught.value.reasons[0].message
    assert caught.value.reasons[0].expected == "measurement"


def test_report_data_are_the_binding() -> None:
    """DESIGN section 6: zero-padded; another form where the TEE shows its key in a PCR."""
    assert tee_report_data(b"\x01" * 48) == b"\x01" * 48 + bytes(16)
    assert tee_report_data(b"\x01" * 48, "ed25519:x") != tee_report_data(b"\x01" * 48, "ed25519:y")
