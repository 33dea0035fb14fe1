"""A real (software) TPM: enrolment, activation, quotes, and what changes them."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perunml.attesters.esys import open_tpm
from perunml.attesters.tpm import (
    AK_HANDLE,
    EK_CHAIN,
    EK_ECC_CERTIFICATE,
    EK_ECC_HANDLE,
    EK_ECC_TEMPLATE,
    EK_RSA_HANDLE,
    ENDORSEMENT_KEYS,
    TpmAttester,
)
from perunml.evidence.baseline import Baseline
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.judge import Judgement, judge
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.tpm.certificate import parse_certificate
from perunml.evidence.tpm.credential import make_credential
from perunml.evidence.tpm.ek import EkIdentity, verify_ek
from perunml.evidence.tpm.keys import check_ak
from perunml.evidence.tpm.public import parse_public
from perunml.evidence.tpm.template import check_ek_template
from perunml.testing.ca import DevelopmentCa
from perunml.testing.forge import ForgedTpm
from perunml.testing.machine import SimulatedMachine
from perunml.wire.errors import EvidenceRefusal, PerunError, Unreachable

pytestmark = pytest.mark.swtpm


def attester_of(machine: SimulatedMachine, tmp_path: Path) -> TpmAttester:
    """The machine's attester, which tells its logs and its command line."""
    return TpmAttester(machine.tcti, tmp_path / "agent", machine.ima_log, machine.event_log, cmdline=machine.cmdline)


@pytest.fixture
def attester(machine: SimulatedMachine, tmp_path: Path) -> TpmAttester:
    return attester_of(machine, tmp_path)


def identified(attester: TpmAttester, roots: list[Path]) -> EkIdentity:
    told = attester.enrolment()
    certificate, chain, ek_public = told["ek_certificate"], told["ek_chain"], told["ek_public"]
    assert isinstance(certificate, bytes)
    assert isinstance(chain, list)
    assert isinstance(ek_public, bytes)
    simulated = [root.read_bytes() for root in roots]
    return verify_ek(certificate, chain, ek_public, vendor_roots=[], simulated_roots=simulated, now=int(time.time()))


class Manager:
    """What a manager keeps of a machine."""

    def __init__(self, attester: TpmAttester, baseline: Baseline) -> None:
        ak = attester.enrolment()["ak_public"]
        assert isinstance(ak, bytes)
        self.attester, self.policy = attester, Policy("simulated", "measured", baseline, True)
        self.machine, self.log = Machine(attester.machine, True, ak), b""

    def judge(self, bundle: Bundle, binding: bytes) -> Judgement:
        found = judge(bundle, machine=self.machine, policy=self.policy, binding=binding, now=0, prior_log=self.log)
        if not found.appraisal.reasons:
            self.machine, self.log = replace(self.machine, last_clock=found.clock), found.log
            self.attester.accepted(bundle)
        return found

    def ask(self) -> list[str]:
        binding = secrets.token_bytes(48)
        return [reason.code for reason in self.judge(self.attester.collect(binding), binding).appraisal.reasons]


@pytest.fixture
def manager(attester: TpmAttester, machine: SimulatedMachine) -> Manager:
    return Manager(attester, machine.baseline())


def test_enrolment_activation_and_quotes_are_accepted(
    attester: TpmAttester, machine: SimulatedMachine, manager: Manager
) -> None:
    """The whole road: EK chain, AK, credential, first quote with the whole log, second with an increment."""
    identity = identified(attester, machine.roots)
    assert identity.machine == attester.machine
    assert identity.simulated
    told = attester.enrolment()
    secret = secrets.token_bytes(32)
    assert isinstance(told["ek_public"], bytes)
    assert isinstance(told["ak_public"], bytes)
    credential = make_credential(told["ek_public"], check_ak(told["ak_public"]).name, secret)
    assert attester.activate(*credential) == secret
    assert manager.ask() == []
    part = attester.collect(bytes(48)).parts[0]
    assert isinstance(part, TpmPart)
    assert part.ima_log == b""
    assert manager.ask() == []


def test_one_quote_serves_several_exchanges(attester: TpmAttester, manager: Manager) -> None:
    """Two bindings in one TPM's signature: each bundle is good for its own exchange, and for no third."""
    bindings = [secrets.token_bytes(48) for _ in range(2)]
    bundles = attester.collect_many(bindings)
    first, second = (bundles[binding].parts[0] for binding in bindings)
    assert isinstance(first, TpmPart)
    assert isinstance(second, TpmPart)
    assert first.attest == second.attest
    for binding in bindings:
        assert manager.judge(bundles[binding], binding).appraisal.reasons == ()
    found = manager.judge(bundles[bindings[0]], secrets.token_bytes(48))
    assert [reason.code for reason in found.appraisal.reasons] == ["binding_mismatch"]


def test_k2_the_machines_ca_must_have_been_given(attester: TpmAttester) -> None:
    """K2: a software TPM's CA is believed by nobody who was not told to."""
    with pytest.raises(EvidenceRefusal) as caught:
        identified(attester, [])
    assert caught.value.code == "ek_chain"


def test_k5_a_credential_for_another_key_does_not_open(attester: TpmAttester) -> None:
    """K5: the TPM itself refuses a credential for a key that it does not hold."""
    told = attester.enrolment()
    assert isinstance(told["ek_public"], bytes)
    other = check_ak(ForgedTpm().ak_public).name
    with pytest.raises(Unreachable) as caught:
        attester.activate(*make_credential(told["ek_public"], other, b"x" * 32))
    assert caught.value.code == "tpm_unavailable"


def test_credentials_for_the_ecc_p384_ek_open_too(machine: SimulatedMachine, attester: TpmAttester) -> None:
    """The software TPM's second EK, of template H-3: our ECC credential, opened by a real TPM (by password, which H-3
    allows)."""
    from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_ENCRYPTED_SECRET, TPM2B_ID_OBJECT

    with open_tpm(machine.tcti) as tpm:
        ek_public = tpm.read_public(0x81010016)
    ak = attester.enrolment()["ak_public"]
    assert isinstance(ak, bytes)
    credential, encrypted = make_credential(ek_public, check_ak(ak).name, b"s" * 32)
    with ESAPI(machine.tcti) as esys:
        found = esys.activate_credential(
            esys.tr_from_tpmpublic(AK_HANDLE),
            esys.tr_from_tpmpublic(0x81010016),
            TPM2B_ID_OBJECT.unmarshal(credential)[0],
            TPM2B_ENCRYPTED_SECRET.unmarshal(encrypted)[0],
            session1=ESYS_TR.PASSWORD,
            session2=ESYS_TR.PASSWORD,
        )
    assert bytes(found) == b"s" * 32


@pytest.mark.parametrize("kind", ["rsa-high", "p256-high", "p384", "rsa3072", "p521", "rsa4096"])
def test_k19_credentials_for_eks_of_the_high_range_open(
    kind: str, machine: SimulatedMachine, attester: TpmAttester
) -> None:
    """K19: templates H-1 to H-7 made in a real TPM; our credential opens there, and not for another key's name."""
    from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_ENCRYPTED_SECRET, TPM2B_ID_OBJECT, TPM2B_PUBLIC, TSS2_Exception

    sample = parse_public(ForgedTpm(ek=kind).ek_public)
    unique = b"".join(len(part).to_bytes(2) + part for part in sample.unique)
    area = sample.raw.removesuffix(unique) + b"".join(
        len(part).to_bytes(2) + bytes(len(part)) for part in sample.unique
    )
    ak = attester.enrolment()["ak_public"]
    assert isinstance(ak, bytes)
    with ESAPI(machine.tcti) as esys:
        template, _ = TPM2B_PUBLIC.unmarshal(len(area).to_bytes(2) + area)
        try:
            ek, made, *_ = esys.create_primary(None, template, primary_handle=ESYS_TR.ENDORSEMENT)
        except TSS2_Exception:
            pytest.skip("this software TPM makes no such key; runs where it does")
        try:
            ek_public = bytes(made.marshal())
            check_ek_template(ek_public)
            loaded = esys.tr_from_tpmpublic(AK_HANDLE)

            def activate(name: bytes) -> bytes:
                credential, encrypted = make_credential(ek_public, name, b"s" * 32)
                found = esys.activate_credential(
                    loaded,
                    ek,
                    TPM2B_ID_OBJECT.unmarshal(credential)[0],
                    TPM2B_ENCRYPTED_SECRET.unmarshal(encrypted)[0],
                    session1=ESYS_TR.PASSWORD,
                    session2=ESYS_TR.PASSWORD,
                )
                return bytes(found)

            assert activate(check_ak(ak).name) == b"s" * 32
            with pytest.raises(TSS2_Exception):
                activate(check_ak(ForgedTpm().ak_public).name)
        finally:
            esys.flush_context(ek)


def test_an_extended_pcr_is_refused(manager: Manager, machine: SimulatedMachine) -> None:
    """C14: a PCR extended in mid-run is seen at the next renewal, in both banks, by boot log and boot_aggregate."""
    assert manager.ask() == []
    machine.extend(1, b"another setup")
    twice = ["pcr_mismatch", "pcr_mismatch", "event_log_mismatch", "event_log_mismatch"]
    assert manager.ask() == [*twice, "boot_aggregate"]


def test_e1_a_pcr_that_the_boot_log_judges_is_refused_when_extended(
    manager: Manager, machine: SimulatedMachine
) -> None:
    """E1: the baseline gives no value of PCR 4, only the images that may have been started."""
    assert manager.ask() == []
    machine.extend(4, b"another kernel")
    assert manager.ask() == ["event_log_mismatch", "event_log_mismatch", "boot_aggregate"]


def test_i1_pcr_10_extended_outside_of_the_log_is_refused(manager: Manager, machine: SimulatedMachine) -> None:
    """I1: something measured that the log does not tell."""
    machine.extend(10, b"unlogged")
    assert manager.ask() == ["pcr10_mismatch"]


def test_i5_an_unlisted_file_is_refused(manager: Manager, machine: SimulatedMachine, tmp_path: Path) -> None:
    """I5: loaded after the first quote, seen at the second."""
    assert manager.ask() == []
    evil = tmp_path / "evil"
    evil.write_text("evil")
    machine.measure(evil)
    assert manager.ask() == ["not_in_policy"]


def test_a_listed_file_loaded_again_is_accepted(manager: Manager, machine: SimulatedMachine, files: list[Path]) -> None:
    """An honest machine goes on loading agreed files."""
    assert manager.ask() == []
    machine.measure(files[0])
    assert manager.ask() == []


def test_c1_a_relayed_quote_is_refused(manager: Manager, attester: TpmAttester) -> None:
    """C1: a quote for another binding, however fresh."""
    found = manager.judge(attester.collect(secrets.token_bytes(48)), secrets.token_bytes(48))
    assert [reason.code for reason in found.appraisal.reasons] == ["binding_mismatch"]


def test_n2_an_old_quote_is_refused(manager: Manager, attester: TpmAttester) -> None:
    """N2, Q22: the same binding's older quote, after a newer one was accepted."""
    binding = secrets.token_bytes(48)
    old = attester.collect(binding)
    time.sleep(0.01)
    assert manager.ask() == []
    codes = [reason.code for reason in manager.judge(old, binding).appraisal.reasons]
    assert codes == ["clock_rollback"]


def test_i23_a_reboot_sends_the_whole_log_again(
    manager: Manager, machine: SimulatedMachine, files: list[Path], tmp_path: Path
) -> None:
    """I23: same keys, next boot; the clock is safe and goes on."""
    assert manager.ask() == []
    boot = manager.machine.last_clock
    assert boot is not None
    machine.reboot(files)
    manager.attester = attester_of(machine, tmp_path)
    assert manager.ask() == []
    assert manager.machine.last_clock is not None
    assert manager.machine.last_clock[0] == boot[0] + 1


def test_forgetting_sends_the_whole_log(manager: Manager, attester: TpmAttester) -> None:
    """A manager that lost the kept log says ima_offset; then the whole log travels again."""
    assert manager.ask() == []
    manager.log, manager.machine = b"", replace(manager.machine, last_clock=None)
    assert manager.ask() == ["ima_offset"]
    attester.forget()
    assert manager.ask() == []


def test_the_keys_are_the_same_each_time(attester: TpmAttester, machine: SimulatedMachine, tmp_path: Path) -> None:
    """A restarted agent finds its persistent keys; nothing transient is left behind."""
    again = TpmAttester(machine.tcti, tmp_path / "agent", machine.ima_log)
    assert again.enrolment() == attester.enrolment()
    with open_tpm(machine.tcti) as tpm:
        assert tpm.has(AK_HANDLE)
        assert tpm.has(EK_RSA_HANDLE)
        assert not tpm.has(0x80000000)


def test_a_lost_attestation_key_is_made_again(attester: TpmAttester, machine: SimulatedMachine, tmp_path: Path) -> None:
    """A key at our handle that is not fit is replaced; the one that the seed gives is the same as before."""
    with open_tpm(machine.tcti) as tpm:
        tpm.evict(AK_HANDLE)
        tpm.create_endorsement_key(attester._ek_public, AK_HANDLE)
    again = TpmAttester(machine.tcti, tmp_path / "agent", machine.ima_log)
    assert again.enrolment()["ak_public"] == attester.enrolment()["ak_public"]


def test_k18_a_folder_belongs_to_one_tpm(attester: TpmAttester, machine: SimulatedMachine, tmp_path: Path) -> None:
    """K18: a replaced TPM is noticed by the agent itself."""
    state = tmp_path / "agent" / "tpm.json"
    state.write_text(state.read_text().replace(attester.machine, "ek:sha256:" + "00" * 32))
    with pytest.raises(PerunError) as caught:
        TpmAttester(machine.tcti, tmp_path / "agent", machine.ima_log)
    assert caught.value.code == "tpm_changed"


def test_without_a_log_there_is_no_evidence(attester: TpmAttester, machine: SimulatedMachine, tmp_path: Path) -> None:
    """A log that cannot be read is a coded refusal."""
    blind = TpmAttester(machine.tcti, tmp_path / "agent", tmp_path / "no log")
    with pytest.raises(PerunError) as caught:
        blind.collect(bytes(48))
    assert caught.value.code == "ima_log_unreadable"


def test_without_a_tpm_there_is_a_coded_refusal(tmp_path: Path) -> None:
    """A transport that leads nowhere."""
    with pytest.raises(Unreachable) as caught:
        TpmAttester("device:/dev/no-such-tpm", tmp_path / "agent")
    assert caught.value.code == "tpm_unavailable"


def test_a_boot_log_that_was_asked_for_and_is_not_there_is_refused(machine: SimulatedMachine, tmp_path: Path) -> None:
    """A path of the operator's own; /dev/null sends none."""
    blind = TpmAttester(machine.tcti, tmp_path / "agent", machine.ima_log, tmp_path / "no log")
    with pytest.raises(EvidenceRefusal) as caught:
        blind.collect(bytes(48))
    assert caught.value.code == "event_log_unreadable"
    long = tmp_path / "cmdline"
    long.write_text("x" * 5000)
    with pytest.raises(EvidenceRefusal):
        TpmAttester(machine.tcti, tmp_path / "agent", machine.ima_log, cmdline=long).collect(bytes(48))
    part = TpmAttester(machine.tcti, tmp_path / "agent", machine.ima_log, Path("/dev/null")).collect(bytes(48)).parts[0]
    assert isinstance(part, TpmPart)
    assert (part.event_log, part.cmdline) == (b"", "")


def test_a_boot_log_travels_when_it_is_asked_for(machine: SimulatedMachine, tmp_path: Path) -> None:
    """The firmware's log goes along as it is."""
    log = tmp_path / "bios"
    log.write_bytes(b"events")
    part = TpmAttester(machine.tcti, tmp_path / "agent", machine.ima_log, log).collect(bytes(48)).parts[0]
    assert isinstance(part, TpmPart)
    assert part.event_log == b"events"


def test_quotes_while_files_are_loaded_are_accepted(
    manager: Manager, machine: SimulatedMachine, files: list[Path]
) -> None:
    """The race: PCR 10 and the log change between reading, quoting and reading the log; an honest machine is accepted
    each time."""
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            machine.measure(files[0])

    loading = threading.Thread(target=load)
    loading.start()
    try:
        answers = [manager.ask() for _ in range(25)]
    finally:
        done.set()
        loading.join()
    assert answers == [[]] * 25


def test_pcrs_that_never_hold_still_are_a_coded_refusal(attester: TpmAttester, monkeypatch: pytest.MonkeyPatch) -> None:
    """No endless loop, and never a quote with other values than it signs."""
    monkeypatch.setattr("perunml.attesters.quoting.ATTEMPTS", 0)
    with pytest.raises(PerunError) as caught:
        attester.collect(bytes(48))
    assert caught.value.code == "tpm_busy"


@pytest.fixture
def ecc_certificate(attester: TpmAttester, machine: SimulatedMachine) -> Iterator[DevelopmentCa]:
    """The TPM as if its vendor had certified its ECC P-256 EK too, with room left in the NV index."""
    from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2B_NV_PUBLIC, TPMA_NV, TPMS_NV_PUBLIC

    with open_tpm(machine.tcti) as tpm:
        if not tpm.has(EK_ECC_HANDLE):
            tpm.create_endorsement_key(EK_ECC_TEMPLATE, EK_ECC_HANDLE)
        key = parse_public(tpm.read_public(EK_ECC_HANDLE)).key()
    ca = DevelopmentCa()
    certificate = ca.certify(key)
    area = TPMS_NV_PUBLIC(
        nvIndex=EK_ECC_CERTIFICATE,
        nameAlg=TPM2_ALG.SHA256,
        attributes=TPMA_NV.parse("ownerread|ownerwrite|authread|authwrite"),
        dataSize=len(certificate) + 100,
    )
    with ESAPI(machine.tcti) as esys:
        index = esys.nv_define_space("", TPM2B_NV_PUBLIC(nvPublic=area), auth_handle=ESYS_TR.OWNER)
        esys.nv_write(index, certificate + b"\xff" * 100)
    yield ca
    with ESAPI(machine.tcti) as esys:
        esys.nv_undefine_space(esys.tr_from_tpmpublic(EK_ECC_CERTIFICATE), auth_handle=ESYS_TR.OWNER)


def test_an_ecc_ek_is_preferred_and_its_credential_opens(
    ecc_certificate: DevelopmentCa, machine: SimulatedMachine, tmp_path: Path
) -> None:
    """ECC P-256 EK of template L-2: its policy session, its certificate shorter than the NV index."""
    attester = TpmAttester(machine.tcti, tmp_path / "ecc", machine.ima_log, ek_chain=())
    told = attester.enrolment()
    ek_certificate, ek_public, ak_public = told["ek_certificate"], told["ek_public"], told["ak_public"]
    assert isinstance(ek_certificate, bytes)
    assert isinstance(ek_public, bytes)
    assert isinstance(ak_public, bytes)
    identity = verify_ek(
        ek_certificate,
        ecc_certificate.chain,
        ek_public,
        vendor_roots=[],
        simulated_roots=[ecc_certificate.root],
        now=int(time.time()),
    )
    assert identity.machine == attester.machine
    credential = make_credential(ek_public, check_ak(ak_public).name, b"e" * 32)
    assert attester.activate(*credential) == b"e" * 32


def test_k19_a_tpm_with_an_ek_of_the_high_range_alone_enrols(
    machine: SimulatedMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K19: the software TPM's ECC P-384 EK and its certificate, as if it had no other; its credential opens by password."""
    high = tuple(item for item in ENDORSEMENT_KEYS if item[0] > EK_ECC_CERTIFICATE)
    monkeypatch.setattr("perunml.attesters.tpm.ENDORSEMENT_KEYS", high)
    attester = TpmAttester(machine.tcti, tmp_path / "high", machine.ima_log)
    identity = identified(attester, machine.roots)
    assert identity.machine == attester.machine
    told = attester.enrolment()
    assert isinstance(told["ek_public"], bytes)
    assert isinstance(told["ak_public"], bytes)
    assert parse_public(told["ek_public"]).curve == "p384"
    credential = make_credential(told["ek_public"], check_ak(told["ak_public"]).name, b"h" * 32)
    assert attester.activate(*credential) == b"h" * 32


@pytest.mark.parametrize(
    ("handle", "template"), [item[1:] for item in ENDORSEMENT_KEYS], ids=[f"{item[0]:08x}" for item in ENDORSEMENT_KEYS]
)
def test_k19_templates_of_our_own_give_keys_of_the_profile(
    handle: int, template: bytes, machine: SimulatedMachine
) -> None:
    """K19: a real TPM makes each of them, and the verifier takes them."""
    spare = handle + 0x1000
    try:
        with open_tpm(machine.tcti) as tpm:
            tpm.create_endorsement_key(template, spare)
    except Unreachable:
        assert handle == 0x8101001E
        pytest.skip("this software TPM makes no RSA-4096 keys; runs where it does")
    with open_tpm(machine.tcti) as tpm:
        found = tpm.read_public(spare)
        tpm.evict(spare)
    assert check_ek_template(found)


def test_certificates_that_the_tpm_holds_above_its_ek_go_along(machine: SimulatedMachine, tmp_path: Path) -> None:
    """Two certificates across two NV indices, then padding, as a firmware TPM has them; then the root alone is enough."""
    from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2B_NV_PUBLIC, TPMA_NV, TPMS_NV_PUBLIC

    issuer, root = (parse_certificate(path.read_bytes()).raw for path in machine.roots)
    data = issuer + root + bytes(50)
    pieces = (data[:700], data[700:])
    with ESAPI(machine.tcti) as esys:
        for number, piece in enumerate(pieces):
            area = TPMS_NV_PUBLIC(
                nvIndex=EK_CHAIN[number],
                nameAlg=TPM2_ALG.SHA256,
                attributes=TPMA_NV.parse("ownerread|ownerwrite|authread|authwrite"),
                dataSize=len(piece),
            )
            index = esys.nv_define_space("", TPM2B_NV_PUBLIC(nvPublic=area), auth_handle=ESYS_TR.OWNER)
            for at in range(0, len(piece), 500):
                esys.nv_write(index, piece[at : at + 500], offset=at)
    try:
        attester = TpmAttester(machine.tcti, tmp_path / "agent", machine.ima_log)
        assert attester.enrolment()["ek_chain"] == [issuer, root]
        assert identified(attester, [machine.roots[1]]).simulated
    finally:
        with ESAPI(machine.tcti) as esys:
            for number in range(len(pieces)):
                esys.nv_undefine_space(esys.tr_from_tpmpublic(EK_CHAIN[number]), auth_handle=ESYS_TR.OWNER)


def test_the_chain_that_the_operator_has_goes_along(
    machine: SimulatedMachine, attester: TpmAttester, tmp_path: Path
) -> None:
    """Intermediate certificates from files: then the root alone is enough."""
    issuer, root = machine.roots
    sending = TpmAttester(machine.tcti, tmp_path / "agent", machine.ima_log, ek_chain=[issuer])
    assert identified(sending, [root]).simulated
    with pytest.raises(EvidenceRefusal):
        identified(attester, [root])
