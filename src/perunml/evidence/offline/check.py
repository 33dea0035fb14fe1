"""`check_tpm`, `check_event_log`, `check_ima`: evidence in files, judged without a manager and, if need be, without a policy.

Without a baseline everything is judged that needs no policy: signature, names, nonce, selection, the EK's chain, template
hashes, the replay of the logs to the quoted PCRs, boot_aggregate. The rest is told as claims. With a baseline, the same
appraisal runs as in a manager.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perunml.evidence.baseline import Baseline
from perunml.evidence.bundle import MAX_ATTEST, MAX_SIGNATURE, TpmPart
from perunml.evidence.codes import BINDING_MISMATCH, NON_CANONICAL, PCR10_MISMATCH, PCR_DIGEST, PCR_SELECTION, WEAK_BANK
from perunml.evidence.ima.forms import BINARY
from perunml.evidence.ima.replay import replay
from perunml.evidence.offline.appraise import appraise_files
from perunml.evidence.offline.boot import ReplayedLog, read_boot
from perunml.evidence.offline.endorsement import check_endorsement
from perunml.evidence.offline.findings import Checked, Findings
from perunml.evidence.offline.keys import possible_aks, read_ak
from perunml.evidence.offline.measurements import ImaLog, only_aggregate, read_ima
from perunml.evidence.offline.values import IMA_PCR, Proven, prove_values, unexplained
from perunml.evidence.rules import STRONG_BANKS
from perunml.evidence.tpm.attest import Attest, parse_attest
from perunml.evidence.tpm.signature import Signature, parse_signature, verify_signature
from perunml.wire.errors import refuse


@dataclass(frozen=True, slots=True)
class TpmFiles:
    """What an auditor holds of one quote.

    attest          TPMS_ATTEST, without a length before it
    signature       TPMT_SIGNATURE
    ak              TPM2B_PUBLIC of the attestation key, or the bare key in PEM
    nonce           what the quote must sign as extraData
    event_log       the firmware's boot log, or None where there is none
    ima             the kernel's IMA log, binary or ASCII, or None
    ek_certificate  DER or PEM, or None
    authorities     certificates (DER or PEM) that the auditor gives; the self-signed ones are trusted as roots
    cmdline         what the machine says its kernel's command line was; believed where a measured event is its digest
    """

    attest: bytes
    signature: bytes
    ak: bytes
    nonce: bytes
    event_log: bytes | None = None
    ima: bytes | None = None
    ek_certificate: bytes | None = None
    authorities: Sequence[bytes] = ()
    cmdline: str = ""


def check_tpm(files: TpmFiles, *, now: int, baseline: Baseline | None = None) -> Checked:
    """Judge a quote, its logs and its EK certificate at `now` (seconds since 1970). Never raises for bad evidence."""
    found = Findings()
    attest = found.attempt(_read_attest, files.attest)
    signature = found.attempt(_read_signature, files.signature)
    ak = found.attempt(read_ak, files.ak, signature)
    boot = found.attempt(read_boot, files.event_log) if files.event_log is not None else None
    ima = found.attempt(read_ima, files.ima) if files.ima is not None else None
    claims: dict[str, Any] = dict.fromkeys(("quote", "ak", "pcrs", "boot", "ima", "ek"))
    if ak is not None:
        key, attributes_known = ak
        claims["ak"] = {"name": key.name.hex() or None, "attributes": "checked" if attributes_known else "not known"}
        if signature is not None:
            found.attempt(verify_signature, signature, key.public, files.attest)
    if attest is not None:
        claims["quote"] = _quote_claims(attest)
        _check_quote(found, attest, files.nonce, boot, ima)
    if files.ek_certificate is not None:
        possible = () if ak is None else (ak[0],) if ak[1] else found.attempt(possible_aks, ak[0]) or ()
        claims["ek"] = check_endorsement(found, files.ek_certificate, files.authorities, possible, attest, now)
    if ima is not None:
        found.add((*ima.reasons, *ima.of_others()))
    unread = (boot is None and files.event_log is not None) or (ima is None and files.ima is not None)
    proven = None
    if attest is not None and signature is not None and not unread:
        proven = _prove(found, attest, signature, boot, ima, baseline, now)
    if proven is not None:
        claims["pcrs"] = {bank: {str(i): v.hex() for i, v in held.items()} for bank, held in proven.pcrs.items()}
    if boot is not None:
        claims["boot"] = boot.claims(proven.pcrs if proven is not None else {}, files.cmdline)
    if ima is not None:
        claims["ima"] = ima.claims(proven.covered if proven is not None else None)
    elif proven is not None and proven.covered:
        claims["ima"] = {"form": "none given: boot_aggregate alone", "entries": 1, "covered": 1, "violations": 0}
    if baseline is not None and not found.reasons:
        assert attest is not None
        assert ak is not None
        pcrs = proven.pcrs if proven is not None else {}
        log = ima.binary() if ima is not None and ima.form != BINARY else files.ima or b""
        part = TpmPart(files.attest, files.signature, pcrs, log, 0, files.event_log or b"", cmdline=files.cmdline)
        found.add(appraise_files(part, ak[0], attest, proven, baseline, now, (claims["ek"] or {}).get("kind", "")))
    return found.checked(claims)


def check_event_log(data: bytes, cmdline: str = "") -> Checked:
    """Read and replay a boot log that no quote proves; claims say what it tells and which PCRs it would give. `cmdline` is
    what the machine says its kernel's command line was."""
    found = Findings()
    boot = found.attempt(read_boot, data)
    return found.checked({"boot": boot.claims({}, cmdline) if boot is not None else None})


def check_ima(data: bytes, pcr10: tuple[str, bytes] | None = None) -> Checked:
    """Read an IMA log and check its template hashes; with `pcr10` (bank, value) also that a prefix of it gives that value."""
    found = Findings()
    ima = found.attempt(read_ima, data)
    if ima is None:
        return found.checked({"ima": None})
    found.add(ima.reasons)
    covered = None
    if pcr10 is not None:
        found.add(ima.of_others())
        covered = found.attempt(replay, ima.lines, dict([pcr10]))
    return found.checked({"ima": {**ima.claims(covered), "pcr10": ima.replayed()}})


def _read_attest(data: bytes) -> Attest:
    if len(data) > MAX_ATTEST:
        raise refuse(NON_CANONICAL, "the attested structure is too long", expected=f"at most {MAX_ATTEST} bytes")
    return parse_attest(data)


def _read_signature(data: bytes) -> Signature:
    if len(data) > MAX_SIGNATURE:
        raise refuse(NON_CANONICAL, "the signature is too long", expected=f"at most {MAX_SIGNATURE} bytes")
    return parse_signature(data)


def _quote_claims(attest: Attest) -> dict[str, Any]:
    clock = attest.clock
    return {
        "nonce": attest.extra_data.hex(),
        "signer": attest.qualified_signer.hex(),
        "selection": {bank: list(indices) for bank, indices in attest.selection},
        "pcr_digest": attest.pcr_digest.hex(),
        "clock_ms": str(clock.clock),
        "reset_count": clock.reset,
        "restart_count": clock.restart,
        "clock_safe": clock.safe,
        "firmware": f"{attest.firmware:016x}",
    }


def _check_quote(found: Findings, attest: Attest, nonce: bytes, boot: ReplayedLog | None, ima: ImaLog | None) -> None:
    if not nonce or not hmac.compare_digest(attest.extra_data, nonce):
        seen = attest.extra_data.hex()
        found.refuse(BINDING_MISMATCH, "the quote signs another nonce", expected=nonce.hex(), seen=seen)
    if not any(bank in STRONG_BANKS for bank, _ in attest.selection):
        seen = ", ".join(bank for bank, _ in attest.selection)
        found.refuse(WEAK_BANK, "no strong bank is quoted", expected=", ".join(STRONG_BANKS), seen=seen)
    # a strong bank that covers something else proves nothing of a log
    if boot is not None and not boot.is_quoted(attest.selection):
        told = "no PCR of the boot log is quoted in a strong bank: nothing of it is proven"
        found.refuse(PCR_SELECTION, told, expected="PCRs 0 to 9")
    if ima is not None and not any(b in STRONG_BANKS and IMA_PCR in indices for b, indices in attest.selection):
        told = "PCR 10 is not quoted in a strong bank: nothing of the IMA log is proven"
        found.refuse(PCR_SELECTION, told, expected="PCR 10")


def _prove(
    found: Findings,
    attest: Attest,
    signature: Signature,
    boot: ReplayedLog | None,
    ima: ImaLog | None,
    baseline: Baseline | None,
    now: int,
) -> Proven | None:
    """The quoted values as the logs (and the baseline) explain them, and whether the logs fit them."""
    if boot is None and ima is None and baseline is None:
        return None  # nothing says what the values are: only the quote itself was to be judged
    replayed = boot.pcrs if boot is not None else {}
    agreed = baseline.at(now).pcrs if baseline is not None else {}
    lines = ima.lines if ima is not None else None
    proven = prove_values(attest, signature.hash, replayed, lines, agreed)
    if proven is None and ima is None:
        # a kernel that has IMA and no policy measures one line, which follows from the boot log
        logs = (prove_values(attest, signature.hash, replayed, one.lines, {}) for one in only_aggregate(replayed))
        proven = next((found for found in logs if found is not None), None)
    if proven is None:
        _explain_failure(found, attest, replayed, ima)
        return None
    if ima is not None:
        found.add(ima.against(proven.pcrs, replayed, proven.covered))
    return proven


def _explain_failure(
    found: Findings, attest: Attest, replayed: dict[str, dict[int, bytes]], ima: ImaLog | None
) -> None:
    """One digest covers everything, so a log is blamed alone only where the other one is known to be right."""
    open_pcrs = unexplained(attest, replayed, ima is not None)
    if ima is not None:
        aggregate = ima.aggregate(replayed, quoted=False)
        if aggregate is True or not ima.lines:
            found.refuse(
                PCR10_MISMATCH, f"no prefix of the {len(ima.lines)} lines of the IMA log gives the quoted PCR 10"
            )
        if aggregate is False:
            found.add(ima.against({}, replayed, None))
    listed = ", ".join(f"{bank}:{index}" for bank, index in open_pcrs)
    found.refuse(
        PCR_DIGEST,
        "the logs do not give the PCR values that the quote signs",
        expected=attest.pcr_digest.hex(),
        seen=f"no log explains {listed}: taken as never extended" if listed else "every quoted PCR is in a log",
    )
