"""A manager in a TEE, its evidence forged under development roots: a real server over real TLS on a fake kernel's files, and what
a client refuses of it. T and C as they concern the manager."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from attesters.kernel import Kernel
from client.test_trust import URL, Manager
from perunml.agreements.profiles import Tee
from perunml.api.trust import Activation, RootCustody
from perunml.attesters.detect import Ground
from perunml.attesters.tee import TeeAttester
from perunml.client.appraise import more_reasons
from perunml.client.asking import Shown, fetch_attestation, send_activation
from perunml.client.endorsed import from_manager, joined, read_collateral
from perunml.client.home import Home
from perunml.client.profile import ManagerProfile
from perunml.client.trust import Given, Trusted, examine, keep, seen_before
from perunml.evidence.endorsements import Collateral, Seen
from perunml.evidence.parts import SgxPart, TeePart
from perunml.manager import context, device, setup
from perunml.manager.custody_tee import TeeCustody
from perunml.manager.device import Device
from perunml.manager.server import Server
from perunml.testing.appraisals import appraisal
from perunml.testing.dcap import CPU_SVN, NOW, OUT_OF_DATE, PCE_SVN, REVOKED, SGX_FIELDS, ForgedIntel, Says
from perunml.testing.snp import AmdCa, ForgedChip
from perunml.wire.digests import digest
from perunml.wire.dsse import signed
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey

SNP = {"measurement": ["11" * 48], "products": ["Milan"], "min_tcb": {"bootloader": 4}}
SGX = {"mr_enclave": [SGX_FIELDS["mr_enclave"].hex()]}
COLLECTOR = SigningKey.generate()


def profile(rules: dict[str, Any], **more: Any) -> ManagerProfile:
    asked = {"profile": "simulated", "imitates": "tee", **rules}
    document = {"apiVersion": "perunml/v1", "kind": "ManagerProfile", "profile": asked, **more}
    return ManagerProfile.load(json.dumps(document).encode())


@cache
def chip() -> ForgedChip:
    return ForgedChip(AmdCa())


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


def refused(*arguments: Any, **how: Any) -> set[str]:
    with pytest.raises(PerunError) as caught:
        examine(*arguments, now=NOW, **how)
    return {reason.code for reason in caught.value.reasons}


# a real server


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A manager inside a SEV-SNP guest, whose firmware keeps its root key; it has AMD's collateral."""
    here = tmp_path_factory.mktemp("guest")
    kernel = Kernel(here / "root", "sev_guest", sign=chip().report)
    ground = Ground(root=here / "root", tree=kernel)
    with pytest.MonkeyPatch.context() as patch:
        make = lambda one, state, keys: device.make_attester(one, state, keys, ground)  # noqa: E731 - shorter than a def
        patch.setattr(context, "make_attester", make)
        patch.setattr(setup, "make_attester", make)
        folder, custody = here / "manager", TeeCustody("snp", lambda: b"k" * 32)
        signer = COLLECTOR.public.text
        setup.init(folder, custody, url="https://127.0.0.1:1", device=Device("snp"), collateral_signers=[signer])
        bundle = signed("Collateral", chip().endorsements().collateral.as_json(), COLLECTOR)
        (folder / "collateral" / "amd.json").write_bytes(bundle.encode())
        server = Server(folder, custody)
        _, port = server.start()
        try:
            server.services.authorities.add(f"127.0.0.1:{port}")
            yield server
        finally:
            server.stop()


def address(server: Server) -> str:
    return f"https://127.0.0.1:{server.address[1]}"


KNOWN = Given(simulated_roots=(chip().ca.root,))


def test_a_newcomer_trusts_a_manager_in_a_tee(guest: Server, tmp_path: Path) -> None:
    """Nothing in hand but a profile and the root: the collateral comes from the manager, the verdict from AMD's signatures."""
    found = examine(address(guest), profile({"snp": SNP}), given=KNOWN, now=NOW)
    pin = found.pin
    assert pin.identity == guest.services.keys.identity.public.text
    assert (pin.profile, pin.custody) == ("simulated", "tee")
    assert pin.machine.startswith("chip:sha256:")
    assert pin.judged_by
    keep(Home(tmp_path), found)
    assert Home(tmp_path).pin() == pin


def test_t18_a_development_root_counts_only_when_it_is_given(guest: Server) -> None:
    """T7, T18: not known by default, whoever hands the certificates out."""
    assert "certificate_chain" in refused(address(guest), profile({"snp": SNP}))


def test_own_collateral_stands_in_place_of_the_managers(guest: Server, tmp_path: Path) -> None:
    """T6: an empty set of one's own is not filled up by what the manager says; a full one will do."""
    path = tmp_path / "collateral.json"
    for held, accepted in ((Collateral(), False), (chip().endorsements().collateral, True)):
        path.write_bytes(signed("Collateral", held.as_json(), COLLECTOR).encode())
        root = tmp_path / "root.der"
        root.write_bytes(chip().ca.root)
        given = Given.read(collateral=[path], simulated_tee_roots=[root])
        if accepted:
            assert examine(address(guest), profile({"snp": SNP}), given=given, now=NOW).pin.custody == "tee"
        else:
            assert refused(address(guest), profile({"snp": SNP}), given=given)


def test_t2_another_measurement(guest: Server) -> None:
    """T2: what runs is not what the profile names."""
    asked = profile({"snp": {**SNP, "measurement": ["22" * 48]}})
    assert len(refused(address(guest), asked, given=KNOWN)) == 1


def test_t21_another_machine(guest: Server) -> None:
    """T21: the profile names a chip, and it is not this one."""
    asked = profile({"snp": SNP, "machines": ["chip:sha256:" + "0" * 64]})
    assert refused(address(guest), asked, given=KNOWN) == {"wrong_machine"}
    own = examine(address(guest), profile({"snp": SNP}), given=KNOWN, now=NOW).pin.machine
    assert examine(address(guest), profile({"snp": SNP, "machines": [own]}), given=KNOWN, now=NOW).pin.machine == own


def test_c1_evidence_relayed_over_another_tls(guest: Server) -> None:
    """C1, C4: the genuine TEE's fresh answer, told by somebody with another TLS key, or with another key inside."""

    def relayed(url: str, nonce: bytes) -> Shown:
        return Shown(fetch_attestation(url, nonce).attestation, digest(b"a relay's key"))

    assert refused(address(guest), profile({"snp": SNP}), given=KNOWN, fetch=relayed) == {"channel_mismatch"}

    def altered(url: str, nonce: bytes) -> Shown:
        shown = fetch_attestation(url, nonce)
        said = shown.attestation.model_copy(update={"identity": SigningKey.generate().public.text})
        return replace(shown, attestation=said)

    assert refused(address(guest), profile({"snp": SNP}), given=KNOWN, fetch=altered) == {"binding_mismatch"}


def test_n2_evidence_for_another_nonce(guest: Server) -> None:
    """N2, C7: what was fresh once is not, for whoever asks anew."""
    old = fetch_attestation(address(guest), bytes(32))
    again = lambda url, nonce: old  # noqa: E731 - shorter than a def
    assert refused(address(guest), profile({"snp": SNP}), given=KNOWN, fetch=again) == {"binding_mismatch"}


def test_k16_who_asks_too_often_waits(guest: Server) -> None:
    """K16: each answer costs the device some work, so an address has a rate; a client that is pinned is not asked for it again."""
    codes = set()
    try:
        for _ in range(80):
            try:
                fetch_attestation(address(guest), bytes(32))
            except PerunError as exc:
                codes.add(exc.code)
                break
    finally:
        guest.services.limits._buckets.clear()  # for the tests after this one
    assert codes == {"rate_limited"}


def test_activation_is_for_tpms_alone(guest: Server) -> None:
    """A manager without one has nothing there, for anybody."""
    with pytest.raises(PerunError) as caught:
        send_activation(address(guest), Activation(credential=b"", secret=b""))
    assert caught.value.code == "not_entitled"


# a forged enclave behind the same protocol


@dataclass
class Enclave:
    """A `TeeSource`."""

    fields: dict[str, bytes]
    kind: Any = "sgx"

    def report(self, report_data: bytes) -> TeePart:
        return SgxPart(intel().sgx_quote(report_data, **self.fields))


def enclave(says: Says | None = None, **fields: bytes) -> Manager:
    told = intel().endorsements("sgx", says=says).collateral.as_json()
    return Manager(attester=TeeAttester(Enclave(fields)), custody="tee", lies={"collateral": told})


def asked(manager: Manager, **how: Any) -> Trusted:
    given = Given(simulated_roots=(intel().root,))
    return examine(URL, profile({"sgx": SGX}), given=given, fetch=manager, now=NOW, **how)


def codes(manager: Manager, **how: Any) -> set[str]:
    with pytest.raises(PerunError) as caught:
        asked(manager, **how)
    return {reason.code for reason in caught.value.reasons}


def test_an_enclave_is_trusted_and_what_it_was_judged_by_is_remembered() -> None:
    """The pin keeps the newest collateral."""
    pin = asked(enclave()).pin
    assert pin.machine.startswith("platform:sha256:")
    assert pin.seen


def test_t5_older_collateral_than_before(tmp_path: Path) -> None:
    """T5: the manager hands out what was true some time ago; validly signed, and older than what this party saw."""
    home = Home(tmp_path)
    keep(home, asked(enclave()))
    assert asked(enclave(), seen=seen_before(home)).pin.seen
    assert codes(enclave(Says(number=17)), seen=seen_before(home)) == {"collateral_rollback"}
    newer = {name: Seen(one.number, one.issued + 1) for name, one in seen_before(home).items()}
    assert codes(enclave(), seen=newer) == {"collateral_rollback"}


@pytest.mark.parametrize("status", [OUT_OF_DATE, REVOKED])
def test_t4_a_platform_behind_its_vendors_word(status: str) -> None:
    """T4: the vendor's TCB level of the manager's own platform."""
    assert codes(enclave(Says(levels=((status, CPU_SVN, PCE_SVN, ()),))))


def test_t6_a_manager_without_collateral() -> None:
    """T6: missing is refused."""
    assert "collateral_missing" in codes(replace(enclave(), lies={}))


def test_t1_a_debuggable_enclave() -> None:
    """T1: whoever debugs it reads its keys."""
    assert codes(enclave(attributes=bytes([0x07]) + SGX_FIELDS["attributes"][1:]))


def test_a_tee_has_no_name_of_its_own_choice() -> None:
    """What nothing proves is not pinned."""
    manager = enclave()
    lies = {**manager.lies, "machine": "platform:" + digest(b"x")}
    assert codes(replace(manager, lies=lies)) == {"wrong_manager"}


def test_under_tee_no_passphrase_and_no_foreign_tpm_keeps_the_root_key() -> None:
    """A real TEE proves what runs; it does not help when the root key is somebody else's to know."""
    written = Tee.model_validate({"profile": "tee", "sgx": SGX})
    found = appraisal(profile="tee", imitates="", machine="")
    for kind, admitted, good in (
        ("passphrase", None, False), ("tpm", None, False), ("tee", None, True), ("tpm", {"tpm"}, True), ("tee", {"tpm"}, False),
    ):  # fmt: skip
        custody = RootCustody.model_validate({"kind": kind, "pcrs": [0, 2, 4, 7] if kind == "tpm" else []})
        reasons = [reason.code for reason in more_reasons(found, written, custody, admitted)]
        assert reasons == ([] if good else ["custody_weak"])


def test_what_is_no_collateral() -> None:
    """Of another kind, of no form, too much: refused; several are joined, each item once."""
    assert from_manager(None) == Collateral()
    good = intel().endorsements("sgx").collateral
    assert from_manager(good.as_json()) == good
    assert joined([good, good]) == good
    for bad in ({}, {**good.as_json(), "more": []}):
        with pytest.raises(PerunError):
            from_manager(bad)
    with pytest.raises(PerunError, match="too much"):
        from_manager({**good.as_json(), "rims": ["A" * (1024 * 1024)] * 4})
    for data in (b"", b"{}", signed("Baseline", good.as_json(), COLLECTOR).encode()):
        with pytest.raises(PerunError):
            read_collateral(data)
