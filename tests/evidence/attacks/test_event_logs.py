"""Attacks with the event log of a trust domain: left out, unreadable, or told where nobody can check it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from evidence.judging import BINDING
from perunml.evidence.binding import tee_report_data
from perunml.evidence.bundle import Bundle
from perunml.evidence.dcap.appraise import appraise_tdx
from perunml.evidence.dcap.rules import TdxRules
from perunml.evidence.dcap.verify import verify_dcap
from perunml.evidence.judge import judge
from perunml.evidence.parts import TdxPart
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.rules import BootRules
from perunml.testing.bootlog import Boot
from perunml.testing.ccel import ccel
from perunml.testing.dcap import NOW, TDX_FIELDS, ForgedIntel

OPEN = TdxRules(
    mr_td=frozenset({TDX_FIELDS["mr_td"].hex()}), boot=BootRules(secure_boot=True), open=frozenset(range(4))
)
"""Every register is left open, and Secure Boot demanded all the same: the log of RTMR 0 shows it."""


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


def domain(*, secure: bool) -> TdxPart:
    log, values = ccel(Boot(secure=secure))
    named = {f"rtmr{index}": value for index, value in enumerate(values)}
    return TdxPart(intel().tdx_quote(tee_report_data(BINDING), version=5, **named), log, Boot().cmdline)


def codes(part: TdxPart, rules: TdxRules = OPEN) -> list[str]:
    asked = Policy("simulated", "tee", None, True, tee=rules)
    found = judge(
        Bundle((part,)), machine=Machine("", False), policy=asked, binding=BINDING, now=NOW,
        endorsements=intel().endorsements("tdx"),
    )  # fmt: skip
    return [reason.code for reason in found.appraisal.reasons]


def test_the_log_shows_what_is_demanded_of_open_registers() -> None:
    """ACCEPT with Secure Boot on, refused with it off."""
    assert codes(domain(secure=True)) == []
    assert codes(domain(secure=False)) == ["secure_boot_off"]


@pytest.mark.parametrize("log", [b"", b"\xff" * 64, b"no log at all"])
def test_a_log_is_left_out_to_hide_that_secure_boot_was_off(log: bytes) -> None:
    """No register is judged by the log, so none has a reason; the demand stands."""
    assert codes(replace(domain(secure=False), event_log=log)) in (["event_log_missing"], ["non_canonical"])


def test_a_form_of_evidence_without_a_log_meets_no_demand_of_one() -> None:
    """A cloud's report brings no event log: what the rules ask of it is not met by that."""
    quote = verify_dcap(domain(secure=True).quote, "tdx", intel().endorsements("tdx"), now=NOW)
    found = appraise_tdx(
        quote, OPEN, report_data=tee_report_data(BINDING), endorsements=intel().endorsements("tdx"), now=NOW, boot=None
    )
    assert [reason.code for reason in found] == ["event_log_missing"]


def test_an_exact_register_of_another_domain_with_its_log() -> None:
    """RTMR 2 of the agreed value, quoted by a domain whose log says it is the agreed one's: the quote decides."""
    agreed, other = domain(secure=True), ccel(Boot(image=b"another"))[1]
    values = {f"rtmr{index}": value for index, value in enumerate(other)}
    quote = intel().tdx_quote(tee_report_data(BINDING), version=5, **values)
    exact = replace(OPEN, open=frozenset({0, 2, 3}), rtmrs={1: frozenset({ccel()[1][1].hex()})})
    assert codes(agreed, exact) == []
    assert "rtmr_mismatch" in codes(replace(agreed, quote=quote), exact)
