"""What a manager keeps of a TPM, by enrolling over real TLS: kinds, revocation, clouds' instances, cleared TPMs: K11, K13,
K17, K18."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from manager.road import Road
from manager.world import World, code_of
from perunml.agreements.document import agreement_from_json
from perunml.evidence.tpm.certificate import parse_certificate
from perunml.evidence.tpm.cloud import GCE_INSTANCE
from perunml.evidence.tpm.roots import DISCRETE, KNOWN_ROOTS, Root
from perunml.manager import machines, setup
from perunml.manager.config import Config
from perunml.testing.ca import DevelopmentCa
from perunml.testing.forge import ForgedTpm, new_key
from perunml.testing.structures import AK_ATTRIBUTES, public_area, sized
from perunml.wire.canonical import canonical
from perunml.wire.errors import EvidenceRefusal
from perunml.wire.identity import SigningKey


@pytest.fixture
def operator(world: World) -> SigningKey:
    key = SigningKey.generate()
    setup.admit(world.folder, [key.public.text])
    return key


def kept(world: World, machine: str) -> machines.StoredMachine:
    assert world.server is not None
    with world.server.services.database.read() as connection:
        return machines.load(connection, machine)


def test_k13_what_the_certificate_tells_is_kept_with_the_machine(world: World, operator: SigningKey) -> None:
    """K13: kind and vendor by the root, manufacturer and model as certified; evidence is judged by them."""
    tpm = ForgedTpm()
    certificate = tpm.ca.certify(tpm._ek.public_key(), tpm=("id:49465800", "SLB 9672", "id:0F0A"))
    host = world.enrol(operator, "told", tpm, ek_certificate=certificate)
    claims = kept(world, host.machine).enrolled(None).tpm
    assert claims["kind"] == "simulated"
    assert (claims["manufacturer"], claims["model"]) == ("Infineon", "SLB 9672")


def test_k2_a_known_root_may_come_with_the_chain(
    world: World, operator: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K2: a root of the table that the operator of the manager never gave; the machine is a real one."""
    ca = DevelopmentCa("Acme")
    tpm = ForgedTpm(ca=ca)
    assert code_of(lambda: world.enrol(operator, "acme", tpm, ek_chain=[*ca.chain, ca.root])) == "ek_chain"
    known = {**KNOWN_ROOTS, parse_certificate(ca.root).fingerprint: Root("Acme", "Acme root", DISCRETE)}
    monkeypatch.setattr("perunml.evidence.tpm.chain.KNOWN_ROOTS", known)
    host = world.enrol(operator, "acme", tpm, ek_chain=[*ca.chain, ca.root])
    assert not host.enrolled.simulated
    assert kept(world, host.machine).enrolled(None).tpm["kind"] == DISCRETE


def test_k11_a_revoked_tpm_is_refused_and_its_record_stays(world: World, operator: SigningKey) -> None:
    """K11: a list that the host sends itself, of what is revoked."""
    tpm = ForgedTpm()
    host = world.enrol(operator, "revoked", tpm)
    certificate = tpm.ca.certify(tpm._ek.public_key(), serial=4711)
    lists = [tpm.ca.revocations([4711])]
    again = lambda: world.enrol(operator, "revoked", tpm, ek_certificate=certificate, revocations=lists)  # noqa: E731 - called twice below
    assert code_of(again) == "ek_revoked"
    assert code_of(again) == "ek_revoked"
    assert host.link.work().items == []


def test_k11_a_manager_that_demands_lists_takes_the_hosts_or_its_operators(tmp_path: Path) -> None:
    """K11: none is refused; both issuers' in the request, or in the folder after a restart, are accepted."""
    made = World(tmp_path)
    try:
        made.stop()
        settings = made.folder / "manager.json"
        settings.write_bytes(canonical({**json.loads(settings.read_bytes()), "demand_revocations": True}))
        made.start()
        operator, tpm = SigningKey.generate(), ForgedTpm()
        lists = [tpm.ca.revocations(), tpm.ca.revocations(by_root=True)]
        assert code_of(lambda: made.enrol(operator, "demanding", tpm)) == "ek_revocation_unknown"
        assert made.enrol(operator, "demanding", tpm, revocations=lists).machine == tpm.machine
        made.stop()
        (made.folder / "revocations").mkdir()
        for number, one in enumerate(lists):
            (made.folder / "revocations" / f"{number}.crl").write_bytes(one)
        made.start()
        assert made.enrol(operator, "demanding", tpm).machine == tpm.machine
    finally:
        made.close()


def test_k11_the_demand_is_a_setting_that_a_folder_keeps(tmp_path: Path) -> None:
    """K11: `manager init --demand-revocations`; without it nothing is demanded."""
    for demand in (False, True):
        folder = tmp_path / str(demand)
        setup.init(folder, b"a passphrase of some length", url="https://127.0.0.1:1", demand_revocations=demand)
        assert Config.load(folder).trust.demand is demand


def test_a_folder_with_a_list_that_cannot_be_read_is_refused_at_the_start(tmp_path: Path) -> None:
    """K11: an enrolment would only fail by it; a root that cannot be read is refused when it is given."""
    folder, bundle = tmp_path / "manager", tmp_path / "roots.pem"
    bundle.write_bytes(b"# two roots\n" + two_roots())
    setup.init(folder, b"a passphrase of some length", url="https://127.0.0.1:1", vendor_roots=[bundle])
    assert len(Config.load(folder).vendor_roots) == 2
    (folder / "revocations").mkdir()
    (folder / "revocations" / "old.crl").write_bytes(b"junk")
    assert code_of(lambda: Config.load(folder)) == "non_canonical"
    bundle.write_bytes(b"junk")
    again = lambda: setup.init(tmp_path / "other", b"", url="https://127.0.0.1:1", vendor_roots=[bundle])  # noqa: E731 - shorter than a def
    assert code_of(again) == "non_canonical"


def two_roots() -> bytes:
    roots = [x509.load_der_x509_certificate(DevelopmentCa().root) for _ in range(2)]
    return b"".join(root.public_bytes(Encoding.PEM) for root in roots)


def instance(tpm: ForgedTpm, number: int) -> dict[str, Any]:
    """A cloud's certificate for the attestation key."""
    body = bytes.fromhex("0c017a0201050c01700201") + bytes([number])
    extension = (GCE_INSTANCE, bytes([0x30, len(body)]) + body)
    certificate = tpm.ca.certify(tpm._ak.public_key(), usage=None, extension=extension, signing=True)
    return {"ak_certificate": certificate, "ak_chain": tpm.ca.chain}


def test_k17_a_machine_stays_the_cloud_instance_that_it_was_enrolled_as(world: World, operator: SigningKey) -> None:
    """K17: another instance's certificate, none at all, and another key's are refused; its own is accepted again."""
    tpm, other = ForgedTpm(), ForgedTpm()
    world.enrol(operator, "cloud", tpm, **instance(tpm, 1))
    assert kept(world, tpm.machine).instance == "gce:p/z/1"
    for wrong in (instance(tpm, 2), {}, instance(other, 1)):
        assert code_of(lambda wrong=wrong: world.enrol(operator, "cloud", tpm, **wrong)) == "ak_certificate"
    assert kept(world, tpm.machine).instance == "gce:p/z/1"
    assert world.enrol(operator, "cloud", tpm, **instance(tpm, 1)).machine == tpm.machine


def test_k17_a_simulated_clouds_word_makes_a_vendors_tpm_simulated(
    world: World, operator: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K17: the instance would be told to owners beside a real TPM, and anybody with a development CA names it."""
    ca, cloud = DevelopmentCa("Acme"), ForgedTpm()
    tpm = ForgedTpm(ca=ca)
    known = {**KNOWN_ROOTS, parse_certificate(ca.root).fingerprint: Root("Acme", "Acme root", DISCRETE)}
    monkeypatch.setattr("perunml.evidence.tpm.chain.KNOWN_ROOTS", known)
    tpm.ca = cloud.ca
    told = instance(tpm, 1)
    tpm.ca = ca
    host = world.enrol(operator, "mixed", tpm, ek_chain=[*ca.chain, ca.root], **told)
    assert kept(world, host.machine).instance == "gce:p/z/1"
    assert host.enrolled.simulated


def another_ak(tpm: ForgedTpm) -> None:
    """The TPM gets another attestation key, as after a change of its seeds."""
    tpm._ak = new_key("p256")
    tpm.ak_public = sized(public_area(tpm._ak, attributes=AK_ATTRIBUTES, scheme=(tpm._scheme, "sha256")))


def test_k18_another_attestation_key_is_refused_until_the_operator_says_so(world: World, operator: SigningKey) -> None:
    """K18: the record keeps the key that owners know of."""
    tpm = ForgedTpm()
    world.enrol(operator, "new-ak", tpm)
    before = tpm.ak_public
    another_ak(tpm)
    assert code_of(lambda: world.enrol(operator, "new-ak", tpm)) == "tpm_cleared"
    assert kept(world, tpm.machine).ak == before
    world.enrol(operator, "new-ak", tpm, cleared=True)
    assert kept(world, tpm.machine).ak == tpm.ak_public


@pytest.fixture
def road(world: World, tmp_path: Path) -> Iterator[Road]:
    return Road(world, tmp_path)


def approve_anew(road: Road) -> None:
    """A second version of the agreement, word for word, that all parties approve."""
    document = road.document()
    document["metadata"] = {**document["metadata"], "version": 2, "predecessor": road.agreement.digest}
    road.agreement = agreement_from_json(document)
    road.in_force(road.agreement)


@pytest.mark.parametrize("new_key_too", [False, True], ids=["same key", "another key"])
def test_k18_a_cleared_tpm_gets_keys_only_after_owners_approve_anew(road: Road, new_key_too: bool) -> None:
    """K18, Q22: counters that went back are refused; enrolling anew is not enough; a version approved afterwards is."""
    _, session, _ = road.started()
    session.finish({})
    road.tpm.reset, road.tpm.restart, road.tpm.clock = 1, 0, 0  # as the boot whose log is kept was numbered
    if new_key_too:
        another_ak(road.tpm)
    road.tpm.forget()
    run = road.submit().run
    with pytest.raises(EvidenceRefusal) as caught:
        road.release(run)
    assert ("unknown_ak" if new_key_too else "clock_rollback") in {reason.code for reason in caught.value.reasons}
    if not new_key_too:
        road.trainer = road.world.enrol(road.keys["cloud"], "trainer", road.tpm)
        assert code_of(lambda: road.release(run)) == "clock_rollback"
    road.trainer = road.world.enrol(road.keys["cloud"], "trainer", road.tpm, cleared=True)
    assert code_of(lambda: road.trainer.link.challenge(run)) == "tpm_cleared"
    assert road.trainer.link.work().items == []
    approve_anew(road)
    _, again, delivery = road.started()
    assert delivery.agreement == road.agreement.digest
    again.finish({})


def test_k18_a_running_lease_ends_when_its_machine_is_cleared(road: Road) -> None:
    """K18: renewals too are under agreements that were approved for the TPM as it is."""
    _, session, _ = road.started()
    road.world.enrol(road.keys["cloud"], "trainer", road.tpm, cleared=True)
    assert code_of(session.renew) == "tpm_cleared"
