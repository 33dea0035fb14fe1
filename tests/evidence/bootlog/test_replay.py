"""A log explains a quoted PCR only when replaying it gives that very value, in every quoted bank."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.evidence.bootlog.facts import read_boot_log
from perunml.evidence.bootlog.parse import EV_NO_ACTION, BootLog, parse_boot_log
from perunml.evidence.bootlog.replay import explained, replay
from perunml.evidence.bundle import BANK_SIZES
from perunml.testing.bootlog import APPLICATION, SEPARATOR, MadeLog, boot
from perunml.testing.faults import flip
from perunml.wire.errors import EvidenceRefusal, PerunError
from perunml.wire.rules import Reason

Quoted = dict[str, dict[int, bytes]]


def quoted_of(log: MadeLog) -> Quoted:
    """What a TPM that took part in this log would quote: PCRs 0 to 15."""
    given = replay(parse_boot_log(log.encoded))
    return {bank: {i: given[bank].get(i, bytes(BANK_SIZES[bank])) for i in range(16)} for bank in log.banks}


def compared(log: MadeLog, quoted: Quoted) -> tuple[frozenset[int], dict[int, tuple[Reason, ...]]]:
    return explained(parse_boot_log(log.encoded), quoted)


def wrong(log: MadeLog, quoted: Quoted) -> list[int]:
    """PCRs of the quote that the log does not give."""
    proven, _ = compared(log, quoted)
    return sorted({index for values in quoted.values() for index in values} - proven)


QUOTED = quoted_of(boot())


@pytest.mark.parametrize("locality", [0, 3, 4])
@pytest.mark.parametrize("banks", [("sha256",), ("sha1", "sha256", "sha384"), ("sha512",)])
def test_an_honest_log_gives_the_quoted_values(banks: tuple[str, ...], locality: int) -> None:
    """Every bank; PCR 0 from the locality at which the TPM was started."""
    log = boot(banks=banks, locality=locality)
    proven, mismatches = compared(log, quoted_of(log))
    assert not mismatches
    assert proven == frozenset(range(16))


def test_pcr_0_begins_at_the_locality() -> None:
    """By hand: one event after a start at locality 3."""
    log = MadeLog()
    log.locality(3)
    log.add(0, SEPARATOR, bytes(4))
    start = bytes(31) + b"\x03"
    expected = hashlib.sha256(start + hashlib.sha256(bytes(4)).digest()).digest()
    assert replay(parse_boot_log(log.encoded)) == {"sha256": {0: expected}}


def changed(change: Callable[[MadeLog], None]) -> MadeLog:
    log = boot()
    change(log)
    return log


def _digest(log: MadeLog) -> None:
    event = next(e for e in log.events if e.type == APPLICATION)
    event.digests["sha256"] = flip(event.digests["sha256"], 3)


def _as_no_action(log: MadeLog) -> None:
    next(e for e in log.events if e.type == APPLICATION).type = EV_NO_ACTION


def _dropped(log: MadeLog) -> None:
    log.events.remove(next(e for e in log.events if e.type == APPLICATION))


def _doubled(log: MadeLog) -> None:
    log.events.append(next(e for e in log.events if e.type == APPLICATION))


def _to_another_pcr(log: MadeLog) -> None:
    next(e for e in log.events if e.type == APPLICATION).index = 5


@pytest.mark.parametrize(
    ("change", "pcrs"),
    [(_digest, [4]), (_as_no_action, [4]), (_dropped, [4]), (_doubled, [4]), (_to_another_pcr, [4, 5])],
    ids=["e1_digest", "e2_type_no_action", "e8_dropped", "e1_doubled", "e1_other_pcr"],
)
def test_a_changed_log_is_refused_by_pcr(change: Callable[[MadeLog], None], pcrs: list[int]) -> None:
    """E1, E2, E8: the reason names each PCR, with the value expected and seen."""
    log = changed(change)
    proven, mismatches = compared(log, QUOTED)
    assert sorted(mismatches) == pcrs
    assert proven == frozenset(range(16)) - set(pcrs)
    (reason,) = mismatches[pcrs[0]]
    assert reason.code == "event_log_mismatch"
    assert f"PCR {pcrs[0]} " in reason.message
    assert reason.expected == QUOTED["sha256"][pcrs[0]].hex()


def test_e8_a_log_shorter_than_the_pcrs_history_is_refused() -> None:
    """E8: every cut between two measured events shows in some PCR."""
    events = boot().events
    for count in range(1, len(events)):
        assert wrong(MadeLog(events=events[:count]), QUOTED)


def test_e2_events_that_extend_nothing_may_be_appended_and_count_for_nothing() -> None:
    """E2: a made-up EV_NO_ACTION, whatever digest it carries, leaves every value as it was."""
    log = boot()
    log.put(4, EV_NO_ACTION, {"sha256": b"\x11" * 32}, b"made up")
    assert not wrong(log, QUOTED)


def test_e18_a_pcr_that_the_log_does_not_mention_must_be_zero() -> None:
    """E18: somebody extended PCR 12, and no event says so."""
    quoted = {"sha256": {**QUOTED["sha256"], 12: b"\x22" * 32}}
    assert wrong(boot(), quoted) == [12]


def test_e9_a_log_of_sha1_proves_no_pcr_of_sha256() -> None:
    """E9: neither beside a quote of SHA-1 nor of SHA-256."""
    log = MadeLog(("sha1",), agile=False)
    log.separators(range(8))
    for quoted in (quoted_of(log), QUOTED):
        with pytest.raises(EvidenceRefusal) as caught:
            compared(log, quoted)
        assert caught.value.code == "event_log_mismatch"


def test_q12_a_second_bank_that_contradicts_is_refused() -> None:
    """Both banks of the log are compared with the quote."""
    log = boot(banks=("sha256", "sha384"))
    quoted = quoted_of(log)
    quoted["sha384"][7] = bytes(48)
    proven, mismatches = compared(log, quoted)
    assert sorted(mismatches) == [7]
    assert 7 not in proven


def test_q9_a_pcr_is_proven_only_in_the_bank_that_is_read() -> None:
    """Facts are digests of one bank; a PCR that is quoted in another bank alone proves none of them."""
    log = boot(banks=("sha256", "sha384"))
    quoted = quoted_of(log)
    quoted = {"sha256": {i: v for i, v in quoted["sha256"].items() if i != 4}, "sha384": {4: quoted["sha384"][4]}}
    facts = read_boot_log(parse_boot_log(log.encoded), quoted)
    assert facts.bank == "sha256"
    assert facts.proven == frozenset(range(16)) - {4}


def _late(log: MadeLog) -> None:
    log.events.append(log.events.pop(0))


def _twice(log: MadeLog) -> None:
    log.events.insert(0, log.events[0])


def _of_pcr_7(log: MadeLog) -> None:
    log.events[0].index = 7


def _of_five(log: MadeLog) -> None:
    log.events[0].data = b"StartupLocality\0\x05"


def _longer(log: MadeLog) -> None:
    log.events[0].data = b"StartupLocality\0\x03\x00"


@pytest.mark.parametrize("change", [_late, _twice, _of_five, _longer])
def test_e6_a_misplaced_locality_is_refused(change: Callable[[MadeLog], None]) -> None:
    """E6: after PCR 0 was extended, twice, or of no such locality."""
    with pytest.raises(EvidenceRefusal) as caught:
        replay(parse_boot_log(changed(change).encoded))
    assert caught.value.code == "non_canonical"


def test_e6_a_forged_locality_changes_pcr_0() -> None:
    """E6: in its right place, with another value, or left out."""
    assert wrong(boot(locality=4), QUOTED) == [0]
    assert wrong(boot(locality=0), QUOTED) == [0]
    assert wrong(changed(_of_pcr_7), QUOTED) == [0]


RAW = boot().encoded
HEADER = len(boot().spec_id())


def measured(log: BootLog) -> list[tuple[int, Mapping[str, bytes]]]:
    return [(event.register, event.digests) for event in log.events if event.extended]


@settings(max_examples=200)
@given(st.integers(min_value=HEADER * 8, max_value=len(RAW) * 8 - 1))
def test_a_flipped_bit_replays_only_where_no_digest_is(bit: int) -> None:
    """A flip in what is measured never goes unseen; one in type or data leaves the digests that it had."""
    with contextlib.suppress(PerunError):
        found = parse_boot_log(flip(RAW, bit))
        assert (
            explained(found, QUOTED)[1]
            or explained(found, QUOTED)[0] != frozenset(range(16))
            or measured(found) == measured(parse_boot_log(RAW))
        )
