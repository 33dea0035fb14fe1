"""A trust domain's event log (CCEL) by its RTMRs: each register exact, explained or open, as rules say, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import pytest

from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.bootlog.rtmr import WHOLE, RtmrFindings, judge_rtmrs, told_by
from perunml.evidence.dcap.parse import TdxBody, parse_quote
from perunml.evidence.rules import BootRules
from perunml.testing.bootlog import ACTION, IPL, VARIABLE, Boot, MadeLog, boot, variable
from perunml.testing.ccel import BANK, as_ccel, ccel, ccel_rules, rtmrs
from perunml.wire.errors import EvidenceRefusal

NONE: frozenset[int] = frozenset()
Rtmrs = tuple[bytes, bytes, bytes, bytes]


def judged(
    log: bytes,
    values: Rtmrs,
    rules: BootRules | None = None,
    exact: frozenset[int] = NONE,
    open_: frozenset[int] = NONE,
    cmdline: str = Boot().cmdline,
) -> RtmrFindings:
    return judge_rtmrs(log, cmdline, values, rules or ccel_rules(), exact=exact, open_=open_)


def codes(found: RtmrFindings) -> dict[int, list[str]]:
    return {index: [reason.code for reason in reasons] for index, reasons in found.reasons.items() if reasons}


def made(change: Callable[[MadeLog], object]) -> tuple[bytes, Rtmrs]:
    """A log with more in it than was agreed, and the RTMRs that it truly gives."""
    log = as_ccel(boot(None, (BANK,), locality=0))
    change(log)
    return log.encoded, rtmrs(log)


@pytest.mark.parametrize("buffer", [0, 65_536])
def test_an_agreed_boot_is_explained(buffer: int) -> None:
    """RTMR 0 to 2 by their events, RTMR 3, which nothing extends, by zeros; also in the firmware's padded buffer."""
    found = judged(*ccel(buffer=buffer))
    assert found.proven == {0, 1, 2, 3}
    assert codes(found) == {}
    claims = found.claims()
    assert claims["secure_boot"] is True
    assert claims["cmdline"] == [Boot().cmdline]


@pytest.mark.parametrize("index", range(4))
def test_t10_a_register_with_another_value_is_not_explained(index: int) -> None:
    """T10: the log gives all registers but one; where that one is exact or open, the log need not give it."""
    log, values = ccel()
    wrong = list(values)
    wrong[index] = hashlib.sha384(b"other").digest()
    quoted = (wrong[0], wrong[1], wrong[2], wrong[3])
    found = codes(judged(log, quoted))
    assert found.pop(index) == ["event_log_mismatch"]
    assert set(found) <= {WHOLE}
    assert index not in codes(judged(log, quoted, exact=frozenset({index})))
    assert index not in codes(judged(log, quoted, open_=frozenset({index})))


def test_no_log_explains_nothing() -> None:
    """Rules for the event log, and none was sent."""
    found = judged(b"", ccel()[1], exact=frozenset({1}))
    assert codes(found) == {index: ["event_log_missing"] for index in (0, 2, 3)}


@pytest.mark.parametrize("log", [b"\xff" * 100, ccel()[0][:-1], ccel()[0] + b"\1"])
def test_a_log_that_does_not_read_explains_nothing(log: bytes) -> None:
    """Truncated, with more behind it, or none at all."""
    assert codes(judged(log, ccel()[1])) == {index: ["non_canonical"] for index in range(4)}


def test_a_tpms_log_is_none_of_rtmrs() -> None:
    """Another bank, or registers that a domain has not."""
    for log in (
        boot(None, ("sha256",), locality=0),
        boot(None, (BANK, "sha256"), locality=0),
        boot(None, (BANK,), locality=0),
    ):
        assert set(codes(judged(log.encoded, ccel()[1]))[0]) == {"event_log_mismatch"}


@pytest.mark.parametrize("banks", [("sha256",), (BANK, "sha256")])
def test_a_log_has_the_one_bank_of_rtmrs(banks: tuple[str, ...]) -> None:
    """Registers as a domain's, digests of another bank, or of one more."""
    log = MadeLog(banks)
    log.separators([1, 2])
    assert set(codes(judged(log.encoded, ccel()[1]))[0]) == {"event_log_mismatch"}
    assert "no log of RTMRs" in judged(log.encoded, ccel()[1]).reasons[0][0].message


UNAGREED = {
    "an image": (1, lambda log: log.add(2, 0x80000003, bytes(32), hashed=b"another image")),
    "configuration": (0, lambda log: log.add(1, 10, b"ACPI DATA", hashed=b"other tables")),
    "a kernel's file": (2, lambda log: log.add(3, IPL, b"/vmlinuz\0", hashed=b"another kernel")),
    "an application's event": (3, lambda log: log.add(4, IPL, b"app", hashed=b"app")),
    "a second SecureBoot": (0, lambda log: log.add(1, VARIABLE, variable("SecureBoot", b"\1"))),
}


@pytest.mark.parametrize("name", UNAGREED)
def test_an_event_that_was_not_agreed_is_refused(name: str) -> None:
    """In each register: what no rule lists is named, with its register; listed by its digest it is admitted."""
    index, change = UNAGREED[name]
    log, values = made(change)
    assert codes(judged(log, values)) == {index: ["boot_event"]}
    digest = judged(log, values).reasons[index][0].seen.partition(" ")[0]
    listed = dataclasses.replace(ccel_rules(), loaded=ccel_rules().loaded | {digest})
    assert codes(judged(log, values, listed)) == {}


def test_an_applications_digest_is_no_kernels() -> None:
    """What may be started is admitted where images are measured, not in RTMR 2."""
    log, values = made(lambda log: log.add(3, IPL, b"", hashed=Boot().image))
    assert codes(judged(log, values)) == {2: ["boot_event"]}


@pytest.mark.parametrize(("index", "more"), [(0, 1), (1, 1)])
def test_too_many_separators_are_refused(index: int, more: int) -> None:
    """One for each PCR that a register stands for, and not one more."""
    log, values = made(lambda log: [log.separators([index + 1]) for _ in range(more)])
    assert codes(judged(log, values)) == {index: ["boot_separator"]}


def test_a_register_without_a_separator_is_refused() -> None:
    """Firmware never handed over."""

    def drop(log: MadeLog) -> None:
        log.events = [event for event in log.events if not (event.index == 2 and event.data == bytes(4))]

    log, values = made(drop)
    assert codes(judged(log, values)) == {1: ["boot_separator"]}


def test_secure_boot_off_is_refused_where_it_is_demanded() -> None:
    """Also where RTMR 0 is open: then nothing proves it."""
    what = Boot(secure=False)
    log, values = ccel(what)
    demanded = dataclasses.replace(ccel_rules(what), secure_boot=True)
    assert codes(judged(log, values, demanded))[WHOLE] == ["secure_boot_off"]
    log, values = ccel()
    wrong = (bytes(48), *values[1:])
    assert codes(judged(log, wrong, open_=frozenset({0})))[WHOLE] == ["secure_boot_off", "dbx_outdated"]
    assert codes(judged(log, values, open_=frozenset({0}))) == {}


def test_a_command_line_counts_only_where_it_is_proven() -> None:
    """A forbidden word, a missing one, and a line in a register that is open."""
    what = Boot(cmdline="root=/dev/vda init=/bin/sh")
    log, values = ccel(what)
    rules = dataclasses.replace(ccel_rules(what), cmdline=ccel_rules().cmdline)
    found = judged(log, values, rules, cmdline=what.cmdline)
    assert set(codes(found)[WHOLE]) == {"kernel_cmdline"}
    good, quoted = ccel()
    assert codes(judged(good, quoted, open_=frozenset({2})))[WHOLE] == ["kernel_cmdline"]


def test_an_exact_register_says_nothing_of_a_log_that_does_not_give_it() -> None:
    """RTMR 2 has the agreed value, and the log that was sent is another boot's with a good command line: nothing of it is believed."""
    log, values = ccel()
    quoted = (values[0], values[1], hashlib.sha384(b"agreed").digest(), values[3])
    assert codes(judged(log, quoted, exact=frozenset({2}))) == {WHOLE: ["kernel_cmdline"]}


def test_events_that_are_not_extended_say_nothing() -> None:
    """An action in an event that no register has."""
    log, values = made(lambda log: log.no_action(b"Exit Boot Services Invocation", 2))
    assert codes(judged(log, values)) == {}
    changed, _ = made(lambda log: log.add(2, ACTION, b"Exit Boot Services Invocation"))
    assert codes(judged(changed, values))[1] == ["event_log_mismatch"]


def test_without_rules_a_log_is_told_and_must_be_this_boots() -> None:
    """What an auditor sees without a profile: registers that the log extends must have the quoted values."""
    log, values = ccel()
    assert codes(told_by(log, "", values)) == {}
    assert codes(told_by(log, "", (values[0], values[2], values[2], b"\1" * 48))) == {1: ["event_log_mismatch"]}
    with pytest.raises(EvidenceRefusal):
        told_by(log[:-1], "", values)


@needs_vectors
def test_a_real_domains_log_gives_its_quoted_rtmrs() -> None:
    """Google's COS on TDX: the log of 43 events and the quote of the same boot; its images, command line and Secure Boot's
    state are read. A log of another boot gives RTMR 2 alone."""
    folder = FOLDER / "tdx" / "google__go-tdx-guest"
    body = parse_quote((folder / "cos-113-tdx-quote.dat").read_bytes()).body
    assert isinstance(body, TdxBody)
    found = told_by((folder / "ccel_data.dat").read_bytes(), "", body.rtmrs)
    assert found.proven == {0, 1, 2, 3}
    assert codes(found) == {}
    claims = found.claims()
    assert claims["secure_boot"] is False
    assert any(str(line).startswith("/syslinux/vmlinuz.A init=/usr/lib/systemd/systemd") for line in claims["cmdline"])  # type: ignore[union-attr]  # a list, as the line above shows
    other = (FOLDER / "ccel" / "google__go-eventlog" / "cos-113-intel-tdx-dupe-separator.bin").read_bytes()
    assert codes(told_by(other, "", body.rtmrs)) == {0: ["event_log_mismatch"], 1: ["event_log_mismatch"]}


@needs_vectors
def test_a_real_boot_recorded_as_rules_admits_itself_alone() -> None:
    """All events of the COS boot by digest: explained; one digest fewer: named."""
    folder = FOLDER / "tdx" / "google__go-tdx-guest"
    body = parse_quote((folder / "cos-113-tdx-quote.dat").read_bytes()).body
    assert isinstance(body, TdxBody)
    log = (folder / "ccel_data.dat").read_bytes()
    found = told_by(log, "", body.rtmrs)
    assert found.facts is not None
    loaded = frozenset(fact.digest for fact in found.facts.facts)
    assert codes(judged(log, body.rtmrs, BootRules(loaded=loaded))) == {}
    fewer = loaded - {found.facts.facts[-4].digest}
    assert codes(judged(log, body.rtmrs, BootRules(loaded=fewer))) == {2: ["boot_event"]}
