"""Appraises a verified quote: is the TPM's clock one that goes forward, is its state the agreed one?"""

from __future__ import annotations

from collections.abc import Iterator

from perunml.evidence.baseline import Baseline
from perunml.evidence.codes import (
    BASELINE_INCOMPLETE,
    CLOCK_ROLLBACK,
    CLOCK_UNSAFE,
    FIRMWARE_DENIED,
    NO_BASELINE,
    PCR_MISMATCH,
    PCR_SELECTION,
    TPM_KIND,
    WEAK_BANK,
)
from perunml.evidence.rules import STRONG_BANKS, TpmRules
from perunml.evidence.tpm.attest import Clock
from perunml.evidence.tpm.quote import Quote
from perunml.evidence.tpm.roots import DISCRETE
from perunml.evidence.types import Verified
from perunml.wire.rules import Reason

BOOT_PCRS = range(10)
"""Firmware, boot loader, kernel and its command line (PC Client Platform Firmware Profile; Linux IMA's boot_aggregate)."""
IMA_PCR = 10


def appraise_quote(
    verified: Verified[Quote],
    baseline: Baseline | None,
    last_clock: tuple[int, int, int] | None,
    now: int,
    kind: str = "",
) -> tuple[Reason, ...]:
    """Every reason why the quote is not good enough; `last_clock` is (reset, restart, clock in ms) last accepted, `now` in
    seconds since 1970, `kind` of TPM as enrolment recorded it."""
    quote = verified.value
    rules = baseline.tpm if baseline is not None else TpmRules()
    return (
        *_clock(quote.clock, last_clock, rules.unsafe_clock),
        *_firmware(quote.firmware, rules),
        *_kind(kind, rules),
        *_selection(quote),
        *_baseline(quote, baseline, now),
    )


def _clock(clock: Clock, last: tuple[int, int, int] | None, allow_unsafe: bool) -> Iterator[Reason]:
    if not clock.safe and not allow_unsafe:
        yield Reason(CLOCK_UNSAFE, "the TPM lost power without a shutdown", expected="safe", seen="not safe")
    if last is None:
        return
    reset, restart, ticks = last
    # An unorderly loss of power may set the clock back a little; the TPM then counts a reset and says "not safe".
    excused = allow_unsafe and not clock.safe and clock.reset > reset
    if (clock.reset, clock.restart) < (reset, restart) or (clock.clock < ticks and not excused):
        yield Reason(
            CLOCK_ROLLBACK,
            "the TPM's counters went back",
            expected=f"at least reset {reset}, restart {restart}, clock {ticks} ms",
            seen=f"reset {clock.reset}, restart {clock.restart}, clock {clock.clock} ms",
        )


def _firmware(version: int, rules: TpmRules) -> Iterator[Reason]:
    if f"{version:016x}" in rules.denied_firmware:
        yield Reason(FIRMWARE_DENIED, "the policy denies the TPM's firmware", seen=f"{version:016x}")


def _kind(kind: str, rules: TpmRules) -> Iterator[Reason]:
    if rules.discrete and kind != DISCRETE:
        yield Reason(TPM_KIND, "the policy asks for a TPM of its own", expected=DISCRETE, seen=kind or "unknown")


def _selection(quote: Quote) -> Iterator[Reason]:
    strong = [bank for bank in STRONG_BANKS if bank in quote.pcrs]
    if not strong:
        yield Reason(WEAK_BANK, "no strong bank", expected=", ".join(STRONG_BANKS), seen=", ".join(quote.pcrs))
        return
    needed = {*BOOT_PCRS, IMA_PCR}
    if not any(needed <= set(quote.pcrs[bank]) for bank in strong):
        missing = sorted(needed - set(quote.pcrs[strong[0]]))
        yield Reason(PCR_SELECTION, "PCRs that must be quoted are not", expected="0 to 10", seen=f"without {missing}")


def _baseline(quote: Quote, baseline: Baseline | None, now: int) -> Iterator[Reason]:
    if baseline is None:
        yield Reason(NO_BASELINE, "there is no baseline to judge this machine by")
        return
    exact = baseline.exact(now, quote.pcrs)
    if baseline.boot is None and not any(set(BOOT_PCRS) <= set(values) for values in exact.values()):
        yield Reason(BASELINE_INCOMPLETE, "the baseline leaves boot PCRs open", expected="PCRs 0 to 9 of one bank")
    for bank, values in exact.items():
        for index, expected in values.items():
            seen = quote.pcrs.get(bank, {}).get(index)
            if seen is None:
                yield Reason(PCR_SELECTION, "a PCR of the baseline is not quoted", expected=f"{bank}:{index}")
            elif seen not in expected:
                yield Reason(
                    PCR_MISMATCH,
                    f"PCR {index} ({bank}) has another value than agreed",
                    expected=" or ".join(sorted(value.hex() for value in expected)),
                    seen=seen.hex(),
                )
