"""Appraises what a check has proven under a baseline, by the same rules as a manager's."""

from __future__ import annotations

from perunml.evidence.baseline import Baseline
from perunml.evidence.bootlog.judge import judge_boot_log
from perunml.evidence.bundle import TpmPart
from perunml.evidence.codes import PCR10_MISMATCH, PCR_SELECTION
from perunml.evidence.ima.appraise import appraise_log
from perunml.evidence.offline.values import Proven
from perunml.evidence.tpm.appraise import appraise_quote
from perunml.evidence.tpm.attest import Attest
from perunml.evidence.tpm.keys import AttestationKey
from perunml.evidence.tpm.quote import verify_quote
from perunml.wire.errors import PerunError
from perunml.wire.rules import Reason


def appraise_files(
    part: TpmPart, key: AttestationKey, attest: Attest, proven: Proven | None, baseline: Baseline, now: int, kind: str
) -> tuple[Reason, ...]:
    """Every reason why a quote that is authentic, with its logs, is not what the baseline asks for at `now`. `part` holds
    the files, its PCR values are those that were `proven`; `kind` of TPM is what its EK certificate says."""
    if proven is None:
        return (Reason(PCR_SELECTION, "no log and no baseline says what the quoted PCRs are"),)
    allowed = baseline.at(now)
    try:
        # names and nonce were judged before; the signer is whatever the quote names
        quote = verify_quote(part, key, signers=(attest.qualified_signer,), extra_data=attest.extra_data)
        reasons = [
            *appraise_quote(quote, baseline, None, now, kind),
            *judge_boot_log(
                part.event_log, part.cmdline, proven.pcrs, baseline.boot, baseline.exact(now, proven.pcrs)
            ).reasons,
        ]
        if not part.ima_log:
            return (*reasons, Reason(PCR10_MISMATCH, "there is no IMA log, so nothing says what was loaded"))
        return (*reasons, *appraise_log(part.ima_log, 0, proven.pcrs, allowed).reasons)
    except PerunError as exc:
        return exc.reasons
