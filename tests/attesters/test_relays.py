"""The cuckoo attack, staged with two software TPMs: a bad machine's TEE answers with a healthy machine's TPM. Each binder refuses
it for its own reason, and lets the honest machine pass."""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perunml.attesters.binder import BinderKey, new_binder, sign_binding
from perunml.attesters.esys import WrongState, WrongTpm, open_tpm
from perunml.attesters.tpm import AK_HANDLE, TpmAttester
from perunml.evidence.baseline import Baseline
from perunml.evidence.binding import tee_report_data, tpm_extra_data
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.judge import Judgement, judge
from perunml.evidence.parts import SnpPart
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.snp.rules import SnpRules
from perunml.evidence.tpm.binder import verify_binder_key
from perunml.evidence.tpm.keys import check_ak
from perunml.testing.machine import SimulatedMachine
from perunml.testing.snp import AmdCa, ForgedChip
from perunml.wire.errors import PerunError

pytestmark = pytest.mark.swtpm

AMD = AmdCa()
NOW = int(dt.datetime(2027, 1, 15, tzinfo=dt.UTC).timestamp())
BINDING = secrets.token_bytes(48)
RULES = SnpRules.from_json({"measurement": ["11" * 48], "products": ["Milan"], "min_tcb": {"bootloader": 4}})
PCRS_AND_15 = {"sha256": range(16)}


class Host:
    """A machine with a software TPM of its own and a (forged) TEE; it booted the agreed system."""

    def __init__(self, folder: Path, number: int, files: list[Path]) -> None:
        self.machine = SimulatedMachine(folder / f"tpm-{number}")
        self.machine.__enter__()
        self.machine.reboot(files)
        self.attester = TpmAttester(
            self.machine.tcti, folder / f"state-{number}", self.machine.ima_log, self.machine.event_log,
            cmdline=self.machine.cmdline,
        )  # fmt: skip
        self.chip = ForgedChip(AMD, chip_id=bytes([number]) * 64)
        self.key = f"ed25519:key-of-tee-{number}"
        self.secret = secrets.token_bytes(32)
        # in the initrd, before anything else runs: the TEE's key into PCR 15, a binder key under the TEE's secret
        with open_tpm(self.machine.tcti) as tpm:
            tpm.extend(15, {"sha256": hashlib.sha256(self.key.encode()).digest()})
        self.binder = new_binder(self.machine.tcti, self.secret)

    def enrolled(self) -> Machine:
        claim = self.attester.enrolment()
        public, ak, ek = self.binder.public, claim["ak_public"], claim["ek_public"]
        assert isinstance(ak, bytes)
        assert isinstance(ek, bytes)
        return Machine(self.attester.machine, True, ak, "", None, ek, public)

    def baseline(self) -> Baseline:
        return self.machine.baseline()

    def quote(self, binding: bytes = BINDING) -> TpmPart:
        """What whoever reaches this TPM (its operator, or a relay) gets from it: a quote of PCRs 0 to 15."""
        (part,) = self.attester.collect(binding).parts
        assert isinstance(part, TpmPart)
        with open_tpm(self.machine.tcti) as tpm:
            values = tpm.read_pcrs("sha256", range(16))
            attest, signature = tpm.quote(AK_HANDLE, PCRS_AND_15, tpm_extra_data(binding))
        return replace(part, attest=attest, signature=signature, pcrs={"sha256": values})

    def report(self, binding: bytes = BINDING, key: str = "") -> SnpPart:
        """What this machine's TEE reports."""
        return SnpPart(self.chip.report(tee_report_data(binding, key)), self.chip.chain, key)

    def close(self) -> None:
        self.machine.__exit__(None, None, None)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """(healthy, bad): both booted alike; of the bad one the attacker has the TPM's bus and the TEE's operator's seat."""
    if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
        pytest.skip("no software TPM (Debian: swtpm swtpm-tools); runs where make test does")
    folder = tmp_path_factory.mktemp("relays")
    files = [folder / "python3"]
    files[0].write_text("python3")
    healthy = Host(folder, 1, files)
    bad = Host(folder, 2, files)
    yield healthy, bad
    healthy.close()
    bad.close()


def judged(parts: tuple[TpmPart, SnpPart], host: Host, binder: str) -> Judgement:
    """As a manager judges for the enrolled machine of `host`."""
    asked = Policy(
        "simulated", "measured+tee", host.baseline(), True, tee=RULES, binder=binder, written="sha256:" + "0" * 64
    )
    known = Endorsements(Collateral(crls=(AMD.revocations(),)), (AMD.root,))
    return judge(Bundle(parts), machine=host.enrolled(), policy=asked, binding=BINDING, now=NOW, endorsements=known)


def codes(found: Judgement) -> list[str]:
    return [reason.code for reason in found.appraisal.reasons]


@pytest.mark.parametrize("binder", ["machines", "pcr", "tpm-key"])
def test_the_honest_machine_passes(hosts: tuple[Host, Host], binder: str) -> None:
    """Its own TEE and its own TPM, under each binder."""
    healthy, _ = hosts
    quote = replace(healthy.quote(), binder=sign_binding(healthy.machine.tcti, healthy.binder, BINDING))
    report = healthy.report(key=healthy.key if binder == "pcr" else "")
    found = judged((quote, report), healthy, binder)
    assert codes(found) == []
    assert found.appraisal.imitates == "measured+tee"


def test_without_a_binder_the_relay_would_pass(hosts: tuple[Host, Host]) -> None:
    """What the binders are for: TPM and TEE are each genuine, and of two machines."""
    healthy, bad = hosts
    assert codes(judged((healthy.quote(), bad.report()), healthy, "")) == []


def test_pinned_pairs_tell_the_relay(hosts: tuple[Host, Host]) -> None:
    """Binder `machines`: what was proven is another pair than the approved one; `decide` compares it (tests/manager/test_tees.py)."""
    healthy, bad = hosts
    relayed = judged((healthy.quote(), bad.report()), healthy, "machines").appraisal
    honest = judged((healthy.quote(), healthy.report()), healthy, "machines").appraisal
    assert relayed.identities[0] == honest.identities[0]
    assert relayed.identities[1] != honest.identities[1]


def test_the_tees_key_in_a_pcr_refuses_the_relay(hosts: tuple[Host, Host]) -> None:
    """Binder `pcr`: PCR 15 of the healthy TPM is the measurement of its own TEE's key, and nothing resets it but a boot."""
    healthy, bad = hosts
    assert codes(judged((healthy.quote(), bad.report(key=bad.key)), healthy, "pcr")) == ["binder_mismatch"]
    assert codes(judged((healthy.quote(), bad.report()), healthy, "pcr")) == ["binder_mismatch"]
    lying = replace(bad.report(key=bad.key), key=healthy.key)
    assert codes(judged((healthy.quote(), lying), healthy, "pcr")) == ["binding_mismatch"]


def test_a_key_that_only_the_tee_can_use_refuses_the_relay(hosts: tuple[Host, Host]) -> None:
    """Binder `tpm-key`: the relay reaches the healthy TPM, has the key's blob, and not the secret that the healthy TEE holds."""
    healthy, bad = hosts
    stolen = replace(healthy.binder, secret=bad.secret)
    with pytest.raises(WrongState):
        sign_binding(healthy.machine.tcti, stolen, BINDING)
    assert codes(judged((healthy.quote(), bad.report()), healthy, "tpm-key")) == ["binder_mismatch"]
    own = sign_binding(bad.machine.tcti, bad.binder, BINDING)
    assert codes(judged((replace(healthy.quote(), binder=own), bad.report()), healthy, "tpm-key")) == [
        "quote_signature"
    ]
    another = new_binder(healthy.machine.tcti, bad.secret)  # made anew in the healthy TPM: not the enrolled one
    made = sign_binding(healthy.machine.tcti, another, BINDING)
    assert codes(judged((replace(healthy.quote(), binder=made), bad.report()), healthy, "tpm-key")) == [
        "quote_signature"
    ]


def test_the_binder_key_lives_in_its_tpm_and_state_alone(hosts: tuple[Host, Host]) -> None:
    """Its blob is worth nothing in the other TPM."""
    healthy, bad = hosts
    with pytest.raises(WrongTpm):
        sign_binding(bad.machine.tcti, healthy.binder, BINDING)


def test_an_enrolment_believes_only_what_the_attestation_key_certified(hosts: tuple[Host, Host]) -> None:
    """The other TPM's certificate of another key, another key under this one's, bits changed."""
    healthy, bad = hosts
    ak, other = (check_ak(host.attester.enrolment()["ak_public"]) for host in hosts)  # type: ignore[arg-type]
    own: BinderKey = healthy.binder
    assert verify_binder_key(own.public, own.certify, own.signature, ak).policy
    for public, certify, signature, key in (
        (own.public, own.certify, own.signature, other),
        (bad.binder.public, own.certify, own.signature, ak),
        (own.public, own.certify[:-1], own.signature, ak),
        (own.public, healthy.quote().attest, healthy.quote().signature, ak),
        (healthy.enrolled().ak, own.certify, own.signature, ak),
    ):
        with pytest.raises(PerunError):
            verify_binder_key(public, certify, signature, key)
