"""`check_tpm` on forged machines: what a quote's logs must say where the vectors have no such machine."""

from __future__ import annotations

import pytest

from perunml.evidence.binding import tpm_extra_data
from perunml.evidence.offline.check import TpmFiles, check_tpm
from perunml.testing.forge import ForgedTpm

BINDING = bytes(48)
NOW = 1_800_000_000


def files_of(tpm: ForgedTpm, *, with_ima: bool) -> TpmFiles:
    """The machine's quote and logs."""
    part = tpm.quote(BINDING)
    ima = part.ima_log if with_ima else None
    return TpmFiles(part.attest, part.signature, tpm.ak_public, tpm_extra_data(BINDING), part.event_log, ima)


def codes(files: TpmFiles) -> list[str]:
    return [reason.code for reason in check_tpm(files, now=NOW).reasons]


@pytest.mark.parametrize("ak", ["p256", "p384", "rsa", "rsapss"])
@pytest.mark.parametrize("banks", [("sha256",), ("sha1", "sha256"), ("sha256", "sha384"), ("sha384",)])
def test_q32_every_key_and_bank(ak: str, banks: tuple[str, ...]) -> None:
    """Q32: found from the logs alone, in each bank that is quoted."""
    tpm = ForgedTpm(ak=ak, banks=banks)
    found = check_tpm(files_of(tpm, with_ima=True), now=NOW)
    assert (found.accepted, found.reasons) == (True, ())
    assert set(found.claims["pcrs"]) == set(banks)
    assert found.claims["ima"]["covered"] == len(tpm.lines)


@pytest.mark.parametrize("template", ["ima-ng", "ima-sig"])
def test_a_kernel_without_an_ima_policy_needs_no_ima_log(template: str) -> None:
    """It measures boot_aggregate alone, which follows from the boot log: PCR 10 is explained without a log. As soon as
    anything was loaded it is not."""
    tpm = ForgedTpm(files={}, template=template)
    assert len(tpm.lines) == 1
    found = check_tpm(files_of(tpm, with_ima=False), now=NOW)
    assert (found.accepted, found.reasons) == (True, ())
    assert found.claims["pcrs"]["sha256"]["10"] == tpm.pcrs["sha256"][10].hex()
    assert found.claims["ima"]["entries"] == 1
    tpm.measure("/usr/bin/x", b"x")
    assert codes(files_of(tpm, with_ima=False)) == ["pcr_digest"]
    assert codes(files_of(tpm, with_ima=True)) == []


def test_q10_a_quote_of_sha1_alone_is_refused() -> None:
    """Q10: whatever the logs say."""
    assert "weak_bank" in codes(files_of(ForgedTpm(banks=("sha1",)), with_ima=True))
