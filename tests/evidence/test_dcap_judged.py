"""Intel's evidence through `judge`, as a manager judges it: bound to the exchange, by the profile's rules, remembered."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache

from evidence.judging import BINDING
from perunml.evidence.binding import tee_report_data
from perunml.evidence.bundle import Bundle
from perunml.evidence.dcap.rules import SgxRules, TdxRules
from perunml.evidence.endorsements import Seen
from perunml.evidence.judge import Judgement, judge
from perunml.evidence.parts import SgxPart, TdxPart
from perunml.evidence.policy import Machine, Policy
from perunml.testing.bootlog import Boot
from perunml.testing.ccel import ccel, ccel_rules
from perunml.testing.dcap import FMSPC, NOW, SGX_FIELDS, TDX_FIELDS, ForgedIntel

NOBODY = Machine("", False)
SGX = SgxRules(mr_enclave=frozenset({SGX_FIELDS["mr_enclave"].hex()}))
TDX = TdxRules(mr_td=frozenset({TDX_FIELDS["mr_td"].hex()}), boot=ccel_rules())


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


def enclave(binding: bytes = BINDING) -> SgxPart:
    return SgxPart(intel().sgx_quote(tee_report_data(binding)))


def domain(what: Boot | None = None, binding: bytes = BINDING) -> TdxPart:
    log, rtmrs = ccel(what)
    named = {f"rtmr{index}": value for index, value in enumerate(rtmrs)}
    quote = intel().tdx_quote(tee_report_data(binding), version=5, **named)
    return TdxPart(quote, log, (what or Boot()).cmdline)


def judged(part: SgxPart | TdxPart, rules: SgxRules | TdxRules, seen: dict[str, Seen] | None = None) -> Judgement:
    asked = Policy("simulated", "tee", None, True, tee=rules)
    known = intel().endorsements(seen=seen)
    return judge(Bundle((part,)), machine=NOBODY, policy=asked, binding=BINDING, now=NOW, endorsements=known)


def codes(found: Judgement) -> list[str]:
    return [reason.code for reason in found.appraisal.reasons]


def test_an_enclave_and_a_domain_are_accepted() -> None:
    """Named by their platform; under a development root they are simulated."""
    for part, rules in ((enclave(), SGX), (domain(), TDX)):
        found = judged(part, rules)
        assert codes(found) == []
        assert (found.appraisal.profile, found.appraisal.imitates) == ("simulated", "tee")
        assert found.appraisal.machine.startswith("platform:sha256:")


def test_c2_evidence_for_another_exchange_is_refused() -> None:
    """C2, T9: another nonce or another session key gives another binding."""
    other = bytes(48)
    assert codes(judged(enclave(other), SGX)) == ["binding_mismatch"]
    assert codes(judged(domain(binding=other), TDX)) == ["binding_mismatch"]


def test_t10_a_domain_that_booted_something_else_is_refused() -> None:
    """T10: its own log tells it; no log, or an agreed boot's log, does not help."""
    other = domain(Boot(image=b"another"))
    assert codes(judged(other, TDX)) == ["boot_event"]
    assert codes(judged(replace(other, event_log=b""), TDX)) == ["event_log_missing"] * 4
    assert "event_log_mismatch" in codes(judged(replace(other, event_log=domain().event_log), TDX))
    assert "kernel_cmdline" in codes(judged(replace(domain(), cmdline="init=/bin/sh"), TDX))


def test_t17_a_part_of_the_other_tee_is_refused() -> None:
    """T17: the profile asks for one, the other is sent; or the part says so and the quote does not."""
    assert codes(judged(enclave(), TDX)) == ["wrong_tee"]
    assert codes(judged(TdxPart(enclave().quote), TDX)) == ["wrong_tee"]


def test_t5_what_it_was_judged_by_is_remembered() -> None:
    """T5: the names that collateral was known by, for the next judgement; nothing where evidence is refused."""
    found = judged(enclave(), SGX)
    of = f"@{hashlib.sha256(intel().root).hexdigest()[:16]}"
    name = f"sgx:{FMSPC.hex().upper()}{of}"
    assert {name, f"qe:sgx{of}", f"crl:intel{of}"} <= found.seen.keys()
    assert codes(judged(enclave(), SGX, dict(found.seen))) == []
    newer = {name: Seen(found.seen[name].number + 1, 0)}
    assert codes(judged(enclave(), SGX, newer)) == ["collateral_rollback"]
    assert not judged(enclave(bytes(48)), SGX).seen
