"""What a manager must prove, as it is told afterwards: `meets` says yes to exactly what the profile names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perunml.agreements.profiles import Measured, Simulated, Tee
from perunml.release.managers import Proven, meets

MACHINE = "ek:sha256:" + "1" * 64
BASELINE = "sha256:" + "2" * 64
MEASURED = Measured(profile="measured", baseline=BASELINE, machines=(MACHINE,))
TEE = Tee(profile="tee", snp={"measurement": ["11" * 48]})
GOOD = Proven("measured", "", BASELINE, (MACHINE,), "tpm", (0, 2, 4, 7))
IN_TEE = Proven("tee", "", TEE.judged_by, ("chip:sha256:" + "3" * 64,), "tee")


def test_what_is_named_is_admitted() -> None:
    """Any one of the alternatives will do."""
    assert meets([MEASURED], GOOD)
    assert meets([TEE, MEASURED], GOOD)
    assert meets([MEASURED, TEE], IN_TEE)
    assert not meets([], GOOD)
    assert not meets([TEE], GOOD)


@pytest.mark.parametrize(
    "other",
    [
        {"profile": "simulated", "imitates": "measured"},
        {"judged_by": "sha256:" + "0" * 64},
        {"judged_by": ""},
        {"identities": ("ek:sha256:" + "0" * 64,)},
        {"identities": ()},
        {"custody": "passphrase"},
        {"pcrs": (0, 2, 4)},
        {"pcrs": ()},
    ],
)
def test_what_is_not_named_is_not(other: dict[str, object]) -> None:
    """Less proven, another baseline, another machine, a key that others know or that opens in another boot."""
    assert not meets([MEASURED], replace(GOOD, **other))  # type: ignore[arg-type] # one field each


@pytest.mark.parametrize("custody", ["passphrase", "tpm"])
def test_a_tees_key_is_kept_by_the_tee(custody: str) -> None:
    """A TPM beside it is whosever machine it is; the parties' own words may say otherwise."""
    kept = replace(IN_TEE, custody=custody, pcrs=(0, 2, 4, 7))
    assert not meets([TEE], kept)
    assert meets([TEE], kept, {custody})


def test_simulated_is_met_by_what_it_imitates_and_by_the_real_thing() -> None:
    """Never the other way round."""
    imitated = Simulated(profile="simulated", imitates="measured", baseline=BASELINE)
    assert meets([imitated], replace(GOOD, profile="simulated", imitates="measured"))
    assert meets([imitated], GOOD)
    assert not meets([Simulated(profile="simulated")], GOOD)
