"""Judges the parts of a bundle that TEEs and GPUs send, and whether a TPM beside them is of the same machine.

Kinds of evidence do not know one another; here their findings meet, as plain values.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from perunml.evidence.binding import gpu_nonce, shared_extra_data, tee_report_data
from perunml.evidence.bootlog.rtmr import RtmrFindings, judge_rtmrs
from perunml.evidence.bundle import Bundle, SimulatedPart, TpmPart
from perunml.evidence.clouds.azure import check_ak, check_report_data, cloud_claims, parse_hcl, td_body, td_report_data
from perunml.evidence.clouds.codes import AK_NOT_VOUCHED
from perunml.evidence.codes import BINDING_MISMATCH, WRONG_PROFILE
from perunml.evidence.dcap.appraise import appraise_sgx, appraise_tdx, dcap_claims
from perunml.evidence.dcap.rules import SgxRules, TdxRules
from perunml.evidence.dcap.verify import verify_dcap
from perunml.evidence.endorsements import Endorsements, Seen
from perunml.evidence.nvidia.appraise import UNBOUND, appraise_gpus, gpu_claims
from perunml.evidence.nvidia.rules import GpuRules
from perunml.evidence.nvidia.verify import GpuReport, verify_gpu
from perunml.evidence.parts import GpuPart, HclPart, SgxPart, SnpPart, TdxPart, TeePart
from perunml.evidence.policy import PCR, TPM_KEY, VTPM, Machine, TeeRules
from perunml.evidence.snp.appraise import appraise_snp, snp_claims
from perunml.evidence.snp.rules import SnpRules
from perunml.evidence.snp.verify import SnpReport, verify_snp
from perunml.evidence.tee.codes import BINDER_MISMATCH, PART_MISSING, WRONG_DEVICE, WRONG_TEE
from perunml.evidence.tpm.binder import verify_binder
from perunml.evidence.tpm.keys import check_ak as check_tpm_ak
from perunml.evidence.tpm.keys import qualified_names
from perunml.evidence.tpm.quote import verify_quote
from perunml.evidence.types import Verified
from perunml.wire.canonical import Json
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.rules import Reason

BINDER_PCR = 15
"""Where a TEE's key is measured when its machine boots: free for the system's use, and reset by nothing but a boot (PC Client
Platform TPM Profile, 4.6.2)."""
BINDER_BANK = "sha256"
PINNED = "pinned with this machine in the agreement"
"""What is told of GPUs that the agreement names together with the machine that shows them."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A bundle's parts by kind."""

    tpm: TpmPart | None
    simulated: SimulatedPart | None
    tee: TeePart | None
    gpus: tuple[GpuPart, ...]


def sort_parts(bundle: Bundle) -> Parts:
    """Raises `EvidenceRefusal` (wrong_profile): two TPMs, two TEEs, or a bare key's statement beside anything."""
    tpms = [part for part in bundle.parts if isinstance(part, TpmPart)]
    bare = [part for part in bundle.parts if isinstance(part, SimulatedPart)]
    tees = [part for part in bundle.parts if isinstance(part, SgxPart | TdxPart | SnpPart | HclPart)]
    gpus = tuple(part for part in bundle.parts if isinstance(part, GpuPart))
    if len(tpms) > 1 or len(tees) > 1 or (bare and len(bundle.parts) > 1):
        seen = ", ".join(part.as_json()["kind"] for part in bundle.parts)
        raise refuse(WRONG_PROFILE, "evidence of several machines", expected="at most one TPM and one TEE", seen=seen)
    return Parts(tpms[0] if tpms else None, bare[0] if bare else None, tees[0] if tees else None, gpus)


@dataclass(frozen=True, slots=True)
class DeviceFindings:
    """What a TEE, or the GPUs, were found to be.

    identities  platform, chip or GPUs that were proven
    simulated   a development root vouches for it
    reasons     why it is not good enough under the rules
    claims      what it shows
    seen        the collateral that it was judged by
    boot        names this start of the TEE: SNP's report id, which each launch gets anew; ``tdx`` or ``sgx`` alone where the
                hardware tells none
    """

    identities: tuple[str, ...]
    simulated: bool
    reasons: tuple[Reason, ...]
    claims: Json
    seen: Mapping[str, Seen] = field(default_factory=dict)
    boot: str = ""


@dataclass(frozen=True, slots=True)
class Identified:
    """Whose hardware made authentic evidence for a binding: what an enrolment records. `identity` is empty where the hardware
    tells none."""

    identity: str
    simulated: bool
    claims: Json


def identify(bundle: Bundle, *, binding: bytes, endorsements: Endorsements, now: int) -> Identified:
    """Whose TEE this is, whatever it runs: no profile is asked, for enrolment gives no right. Raises `EvidenceRefusal`:
    part_missing, binding_mismatch, whatever makes the evidence not authentic."""
    parts = sort_parts(bundle)
    if parts.tee is None:
        raise refuse(PART_MISSING, "a TEE's evidence is needed", expected="sgx, tdx or snp", seen="none")
    found = _verify(parts.tee, None, endorsements, now)
    if isinstance(parts.tee, HclPart):
        _quoted(parts, binding)
    wanted = tee_report_data(binding, getattr(parts.tee, "key", ""))
    if not isinstance(parts.tee, HclPart) and not hmac.compare_digest(found.value.report_data, wanted):
        seen = found.value.report_data.hex()
        raise refuse(BINDING_MISMATCH, "the report was made for another exchange", expected=wanted.hex(), seen=seen)
    claims = snp_claims(found) if isinstance(found.value, SnpReport) else dcap_claims(found)
    return Identified(found.value.platform, found.value.simulated, claims)


def _quoted(parts: Parts, binding: bytes) -> None:
    """The virtual TPM that the TEE vouches for signed this exchange."""
    machine = vouched(Machine("", simulated=False), parts.tpm, parts.tee)
    assert parts.tpm is not None
    ak = check_tpm_ak(machine.ak)
    extra = shared_extra_data(binding, parts.tpm.others)
    if extra is None:
        raise refuse(BINDING_MISMATCH, "the quote's other bindings are not a sorted list without this one")
    verify_quote(parts.tpm, ak, signers=qualified_names(ak, None), extra_data=extra)


def judge_tee(
    part: TeePart | None, rules: TeeRules, binding: bytes, endorsements: Endorsements, now: int
) -> DeviceFindings:
    """The TEE's part, verified and appraised. Raises `EvidenceRefusal` where it is not authentic."""
    if part is None:
        raise refuse(PART_MISSING, "the profile demands a TEE's evidence", expected=_kind(rules), seen="none")
    if not isinstance(part, _PARTS_OF[type(rules)]):
        raise refuse(WRONG_TEE, "evidence of another TEE", expected=_kind(rules), seen=str(part.as_json()["kind"]))
    found, told = _verify(part, rules, endorsements, now), tee_report_data(binding, getattr(part, "key", ""))
    more: dict[str, Json] = {}
    if isinstance(part, HclPart):
        hcl = parse_hcl(part.report)
        told = hcl.report_data  # its TPM's quote is what this exchange is bound by
        more["cloud"] = cloud_claims(hcl)
    value = found.value
    if isinstance(rules, SnpRules):
        reasons = appraise_snp(found, rules, report_data=told, endorsements=endorsements, now=now)
        claims = {**snp_claims(found), **more}
        started = f"snp:{value.raw.report_id.hex()}"
        return DeviceFindings(_given(value.platform), value.simulated, reasons, claims, value.collateral, started)
    if isinstance(rules, SgxRules):
        reasons = appraise_sgx(found, rules, report_data=told, endorsements=endorsements, now=now)
    else:
        boot = _rtmrs(part, rules, value.body.rtmrs)
        log = boot.reasons if boot is not None else None
        reasons = appraise_tdx(found, rules, report_data=told, endorsements=endorsements, now=now, boot=log)
        more |= {"event_log": boot.claims()} if boot is not None else {}
    return DeviceFindings(
        _given(value.platform), value.simulated, reasons, {**dcap_claims(found), **more}, value.collateral, value.tee
    )


def _rtmrs(part: TeePart, rules: TdxRules, rtmrs: Sequence[bytes]) -> RtmrFindings | None:
    """What the domain's event log says of the registers that the rules leave to it."""
    if rules.boot is None or not isinstance(part, TdxPart):
        return None
    exact = rules.rtmrs.keys()
    return judge_rtmrs(part.event_log, part.cmdline, rtmrs, rules.boot, exact=exact, open_=rules.open)


def vouched(machine: Machine, tpm: TpmPart | None, tee: TeePart | None) -> Machine:
    """The machine with the attestation key that its TEE vouches for: nobody enrolled one, or it is the enrolled one. The TEE's
    report itself is judged by `judge_tee`. Raises `EvidenceRefusal`: part_missing, wrong_device, non_canonical, ak_attributes,
    ak_not_vouched."""
    if tpm is None or not isinstance(tee, HclPart):
        raise refuse(
            PART_MISSING, "a cloud's virtual TPM and the report that vouches for it are needed", expected="tpm, hcl"
        )
    if machine.ak and not hmac.compare_digest(machine.ak, tpm.ak):
        # a TEE vouches for its own TPM, not for the one that somebody enrolled: else any machine of the cloud would be this one
        what = "the TEE vouches for another TPM's attestation key than the enrolled one"
        raise refuse(WRONG_DEVICE, what, expected=machine.id)
    ak = check_tpm_ak(tpm.ak)
    if ak.public.curve:
        raise refuse(AK_NOT_VOUCHED, "the attestation key is not RSA, as the cloud's is", seen=ak.public.curve)
    check_ak(parse_hcl(tee.report), int.from_bytes(ak.public.unique[0]), ak.public.exponent)
    return machine if machine.ak else replace(machine, ak=tpm.ak, ek=b"")


def _verify(part: TeePart, rules: TeeRules | None, endorsements: Endorsements, now: int) -> Any:
    """`Verified` of the part's report, whatever its kind."""
    if isinstance(part, SnpPart):
        return verify_snp(part.report, part.certificates, endorsements, now=now)
    if isinstance(part, SgxPart):
        return verify_dcap(part.quote, "sgx", endorsements, now=now)
    if isinstance(part, TdxPart):
        return verify_dcap(part.quote, "tdx", endorsements, now=now)
    hcl = parse_hcl(part.report)
    if rules is not None and hcl.kind != _kind(rules):
        raise refuse(WRONG_TEE, "evidence of another TEE", expected=_kind(rules), seen=hcl.kind)
    if hcl.kind == "snp":
        found: Any = verify_snp(hcl.report, part.certificates, endorsements, now=now)
    else:
        found = verify_dcap(part.quote, "tdx", endorsements, now=now)
        if td_body(hcl) != found.value.body.td_info or td_report_data(hcl) != found.value.report_data:
            raise refuse(AK_NOT_VOUCHED, "the quote is over another TD report than the cloud's")
    check_report_data(hcl, found.value.report_data)
    return found


def judge_gpus(
    parts: Sequence[GpuPart],
    rules: GpuRules,
    binding: bytes,
    endorsements: Endorsements,
    now: int,
    *,
    beside: Sequence[str] = (),
    pinned: Sequence[frozenset[str]] = (),
) -> DeviceFindings:
    """The GPUs' parts, verified and appraised together. `beside` are the identities of what was proven beside them; a `pinned`
    machine that names one of those with all GPUs binds them to it. Raises `EvidenceRefusal` where one is not authentic."""
    if not parts:
        raise refuse(PART_MISSING, "the profile demands GPUs' evidence", expected="gpu", seen="none")
    nonce = gpu_nonce(binding)
    failed: list[Reason] = []
    found: list[Verified[GpuReport]] = []
    for part in parts:
        try:
            found.append(verify_gpu(part, endorsements, nonce=nonce, now=now))
        except PerunError as exc:
            failed.extend(exc.reasons)
    if failed:
        raise error(failed)
    reasons = appraise_gpus(found, rules, endorsements=endorsements, now=now)
    identities = tuple(sorted({gpu.value.platform for gpu in found}))
    named = any(set(identities) <= machine and machine & set(beside) for machine in pinned)
    bound = PINNED if named else UNBOUND
    claims = gpu_claims(found, endorsements=endorsements, now=now, bound=bound)
    return DeviceFindings(identities, any(gpu.value.simulated for gpu in found), reasons, claims)


def binder_reasons(
    binder: str, tpm: TpmPart, tee: TeePart | None, machine: Machine, binding: bytes
) -> Iterator[Reason]:
    """Why TPM and TEE are not shown to be of one machine; `tpm`'s quote is verified. ``machines`` is for `decide`, which knows
    the agreed pairs."""
    if binder == TPM_KEY:
        try:
            verify_binder(machine.binder, tpm.binder, binding, tpm.pcrs)
        except PerunError as exc:
            yield from exc.reasons
    elif binder == PCR:
        key = getattr(tee, "key", "")
        if not key:
            yield Reason(BINDER_MISMATCH, "the TEE shows no key that the TPM could have measured", expected="a key")
            return
        wanted = binder_pcr(key)
        seen = tpm.pcrs.get(BINDER_BANK, {}).get(BINDER_PCR, b"")
        if not hmac.compare_digest(seen, wanted):
            what = f"PCR {BINDER_PCR} ({BINDER_BANK}) is not the measurement of this TEE's key"
            yield Reason(BINDER_MISMATCH, what, expected=wanted.hex(), seen=seen.hex() or "not quoted")


def binder_pcr(key: str) -> bytes:
    """The value of PCR 15 after the TEE's key was measured into it, once and as the only thing: SHA-256(32 zeros ‖
    SHA-256(the key's text))."""
    return hashlib.sha256(bytes(32) + hashlib.sha256(key.encode()).digest()).digest()


def device_reasons(machine: Machine, tee: DeviceFindings) -> Iterator[Reason]:
    """A TEE that was enrolled by its hardware's identity shows the same one."""
    if machine.id.startswith(("platform:", "chip:")) and machine.id not in tee.identities:
        seen = ", ".join(tee.identities) or "none"
        yield Reason(WRONG_DEVICE, "evidence of another platform than the enrolled one", expected=machine.id, seen=seen)


def _given(identity: str) -> tuple[str, ...]:
    return (identity,) if identity else ()


_PARTS_OF: Mapping[type, tuple[type, ...]] = {
    SgxRules: (SgxPart,),
    TdxRules: (TdxPart, HclPart),
    SnpRules: (SnpPart, HclPart),
}


def _kind(rules: TeeRules) -> str:
    return {SgxRules: "sgx", TdxRules: "tdx", SnpRules: "snp"}[type(rules)]


__all__ = [
    "BINDER_PCR", "VTPM", "DeviceFindings", "Parts", "binder_pcr", "binder_reasons", "device_reasons", "judge_gpus", "judge_tee",
    "sort_parts",
]  # fmt: skip
