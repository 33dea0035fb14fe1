"""Offline checks of evidence whose quote does not cover what the logs beside it say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from perunml.evidence.binding import tpm_extra_data
from perunml.evidence.offline.check import Checked, TpmFiles, check_event_log, check_tpm
from perunml.testing.bootlog import Boot, boot, u32
from perunml.testing.forge import ForgedTpm, Quoting

BINDING = bytes(48)
NOW = 1_800_000_000
Banks = Sequence[tuple[str, Sequence[int]]]


def checked(tpm: ForgedTpm, banks: Banks, event_log: bytes | None, *, ima: bool = False) -> Checked:
    """A quote of these PCRs alone, with a boot log and perhaps the IMA log."""
    part = tpm.quote(BINDING, Quoting(banks=banks))
    log = part.ima_log if ima else None
    files = TpmFiles(part.attest, part.signature, tpm.ak_public, tpm_extra_data(BINDING), event_log, log)
    return check_tpm(files, now=NOW)


def codes(found: Checked) -> list[str]:
    return [reason.code for reason in found.reasons]


@pytest.mark.parametrize("banks", [("sha256",), ("sha1",)], ids=" ".join)
def test_a_boot_log_of_which_no_pcr_is_quoted_is_refused(banks: tuple[str, ...]) -> None:
    """PCR 23 is zero whatever was booted, so any log at all would go with it."""
    tpm = ForgedTpm(banks=("sha1", "sha256"))
    assert codes(checked(tpm, [("sha256", [23])], boot(banks=banks).encoded)) == ["pcr_selection"]


def test_a_boot_log_of_a_bank_that_cannot_be_replayed_is_refused() -> None:
    """SM3 alone: nothing else than a refusal comes out, with a quote and without."""
    header = b"Spec ID Event03\0" + bytes([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x12, 0, 32, 0, 0])
    log = u32(0) + u32(3) + bytes(20) + u32(len(header)) + header
    log += u32(4) + u32(4) + u32(1) + b"\x12\0" + bytes(32) + u32(4) + bytes(4)
    assert codes(check_event_log(log)) == ["non_canonical"]
    assert codes(checked(ForgedTpm(), [("sha256", [23])], log)) == ["non_canonical"]


def test_q9_a_boot_log_that_is_quoted_in_sha1_alone_is_refused() -> None:
    """Q9: a strong bank in the same quote covers something else."""
    tpm = ForgedTpm(banks=("sha1", "sha256"))
    assert "pcr_selection" in codes(checked(tpm, [("sha1", range(10)), ("sha256", [23])], tpm.boot_log.encoded))


def test_q9_an_ima_log_that_is_quoted_in_sha1_alone_is_refused() -> None:
    """Q9: PCR 10 in SHA-1, the boot's PCRs in SHA-256."""
    tpm = ForgedTpm(banks=("sha1", "sha256"))
    banks = [("sha1", [10]), ("sha256", range(10))]
    assert codes(checked(tpm, banks, tpm.boot_log.encoded, ima=True)) == ["pcr_selection"]


def test_secure_boot_of_a_log_whose_pcr_7_is_not_quoted_is_not_told() -> None:
    """The quote is good and the log fits it; what the log makes up of the registers that were left out is no claim."""
    tpm = ForgedTpm(boots=Boot(secure=False))
    made_up = boot(Boot(), locality=0)
    made_up.events = [event for event in tpm.boot_log.events if event.index != 7] + [
        event for event in made_up.events if event.index == 7
    ]
    found = checked(tpm, [("sha256", [0, 1, 2, 3, 4, 5, 6, 11])], made_up.encoded)
    assert found.accepted
    told = found.claims["boot"]
    assert (told["secure_boot"], told["authorities"], told["cmdline"]) == (None, [], [])
    assert len(told["applications"]) == 1
    assert "db" not in told
