"""Attacks by words: what a party writes into a profile, and nothing ever judges, is refused before anybody relies on it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agreements.sample import document
from perunml.agreements.document import agreement_from_json
from perunml.client.profile import ManagerProfile
from perunml.release.policy import check_rules
from perunml.testing.forge import ForgedTpm
from perunml.wire.errors import UsageError

BASELINE = ForgedTpm().baseline()
MEASURED = {"profile": "measured", "baseline": BASELINE.digest, "machines": ["ek:sha256:" + "0" * 64]}
SNP = {"profile": "tee", "snp": {"measurement": ["11" * 48], "products": ["Milan"], "min_tcb": {"bootloader": 4}}}
ROLES: tuple[tuple[dict[str, Any], bool], ...] = (
    (MEASURED, True),
    ({**MEASURED, "min_driver": "550.1"}, False),
    ({"any_of": [MEASURED, {**MEASURED, "min_driver": "550.1"}]}, False),
    ({"all_of": [SNP, {**MEASURED, "min_driver": "550.1"}], "binder": "pcr"}, False),
    ({"all_of": [SNP, MEASURED], "binder": "pcr"}, True),
)


@pytest.mark.parametrize(("role", "good"), ROLES)
def test_a_drivers_version_is_demanded_where_nothing_tells_it(role: dict[str, Any], good: bool) -> None:
    """A TPM's evidence names no GPU driver: a profile that asks for its version would be met by any. Its files are named by the
    baseline."""
    written = document()
    written["hosts"]["trainer"] = role
    asked = {"apiVersion": "perunml/v1", "kind": "ManagerProfile", "profile": role}
    for read in (
        lambda: check_rules(agreement_from_json(written)),
        lambda: ManagerProfile.load(json.dumps(asked).encode(), baselines=[BASELINE]),
    ):
        if good:
            read()
            continue
        with pytest.raises(UsageError, match="min_driver"):
            read()
