"""Attacks on a manager's proof with collateral that grows older."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from client.test_trust import URL, Manager
from perunml.attesters.tee import TeeAttester
from perunml.client.home import Home
from perunml.client.profile import ManagerProfile
from perunml.client.trust import Given, Trusted, examine, keep, seen_before
from perunml.evidence.parts import SgxPart, TeePart
from perunml.testing.dcap import DAY, NOW, SGX_FIELDS, ForgedIntel, Says
from perunml.wire.errors import PerunError

ASKED = {"profile": "simulated", "imitates": "tee", "sgx": {"mr_enclave": [SGX_FIELDS["mr_enclave"].hex()]}}
DOCUMENT = {"apiVersion": "perunml/v1", "kind": "ManagerProfile", "profile": ASKED}


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


class Enclave:
    """A `TeeSource`."""

    kind: Any = "sgx"

    def report(self, report_data: bytes) -> TeePart:
        return SgxPart(intel().sgx_quote(report_data))


def examined(home: Home, manager: Manager, issued: int) -> Trusted:
    """What the manager proves with shared collateral that was issued then."""
    told = intel().endorsements("sgx", says=Says(crl_issued=issued, qe_issued=issued)).collateral.as_json()
    manager = replace(manager, lies={"collateral": told})
    given, wanted = Given(simulated_roots=(intel().root,)), ManagerProfile.load(json.dumps(DOCUMENT).encode())
    return examine(URL, wanted, given=given, fetch=manager, now=NOW, seen=seen_before(home))


def test_t5_collateral_walks_back_by_a_day_each_time(tmp_path: Path) -> None:
    """T5: what platforms share may be a day older than what was seen; asking again and again does not make it two days."""
    home, manager = Home(tmp_path), Manager(attester=TeeAttester(Enclave()), custody="tee")
    for days in (1, 2):
        keep(home, examined(home, manager, NOW - days * DAY))
    with pytest.raises(PerunError) as caught:
        examined(home, manager, NOW - 3 * DAY)
    assert {reason.code for reason in caught.value.reasons} == {"collateral_rollback"}
