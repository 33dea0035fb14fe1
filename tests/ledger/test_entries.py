"""Entries and leaves: commitments that hide and bind, chains without gaps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.ledger.entries import MAX_ENTRY, Entry, OpenedEntry, entry_hash, leaf_data, open_leaf, verify_chain
from perunml.ledger.merkle import leaf_hash
from perunml.wire.canonical import canonical, load_canonical
from perunml.wire.digests import digest
from perunml.wire.errors import IntegrityError, UsageError

AGREEMENT = digest(b"agreement")
ENTRY = Entry("release", 1_800_000_000, AGREEMENT, "run-1", {"machine": "ek:sha256:00"})
SALT = bytes(range(32))


def test_a_leaf_has_one_fixed_form() -> None:
    """Held here byte by byte (docs/spec/ledger.md, worked example): leaves are for ever."""
    assert leaf_data(ENTRY, SALT) == (
        b'{"commitment":"sha256:2c068b60b3690a8ab1dc1b8fb02aa803aae358663d74a09977b3dcc372b0b880","v":1}'
    )
    assert load_canonical(leaf_data(ENTRY, SALT))["v"] == 1


def test_a_leaf_opens_with_its_entry_and_salt() -> None:
    """And an entry reads back from its JSON."""
    open_leaf(leaf_data(ENTRY, SALT), ENTRY, SALT)
    assert Entry.from_json(load_canonical(canonical(ENTRY.as_json()))) == ENTRY


@pytest.mark.parametrize(
    "changed",
    [
        replace(ENTRY, type="refusal"),
        replace(ENTRY, time=ENTRY.time + 1),
        replace(ENTRY, agreement=digest(b"other")),
        replace(ENTRY, agreement=""),
        replace(ENTRY, subject="run-2"),
        replace(ENTRY, body={}),
        replace(ENTRY, previous=digest(b"x")),
    ],
)
def test_a_leaf_does_not_open_as_another_entry(changed: Entry) -> None:
    """Each member is bound."""
    with pytest.raises(IntegrityError) as refused:
        open_leaf(leaf_data(ENTRY, SALT), changed, SALT)
    assert refused.value.code == "bad_leaf"


def test_a_leaf_does_not_open_with_another_salt() -> None:
    """Another salt, a short one, none."""
    leaf = leaf_data(ENTRY, SALT)
    for salt in (bytes(32), SALT[:31], b"", SALT + b"\0"):
        with pytest.raises(IntegrityError) as refused:
            open_leaf(leaf, ENTRY, salt)
        assert refused.value.code == "bad_leaf"


def test_an_altered_leaf_does_not_open() -> None:
    """Each byte; and another spelling of the same leaf."""
    leaf = leaf_data(ENTRY, SALT)
    others = [leaf[:i] + bytes([leaf[i] ^ 1]) + leaf[i + 1 :] for i in range(len(leaf))]
    for other in [*others, leaf + b" ", leaf[:-1], b"", b'{"v":1,' + leaf[1:-7] + b"}"]:
        with pytest.raises(IntegrityError):
            open_leaf(other, ENTRY, SALT)


def test_equal_entries_have_unequal_leaves() -> None:
    """The salt hides what a small entry says: without it nobody can try all the likely ones."""
    assert leaf_data(ENTRY, SALT) != leaf_data(ENTRY, bytes(32))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "Release"}, {"type": ""}, {"type": "a" * 41}, {"type": 1}, {"type": "a\n"}, {"time": 1_800_000_000},
        {"time": "2027-01-15"}, {"agreement": "sha256:00"}, {"agreement": None}, {"previous": "x"}, {"subject": 3},
        {"body": []}, {"body": None}, {"more": 1},
    ],
)  # fmt: skip
def test_an_ill_formed_entry_is_refused(change: dict[str, Any]) -> None:
    """Wrong types, wrong spellings, unknown members."""
    with pytest.raises(UsageError) as refused:
        Entry.from_json({**ENTRY.as_json(), **change})
    assert refused.value.code == "malformed"


@pytest.mark.parametrize("name", ["type", "time", "agreement", "subject", "body", "previous"])
def test_a_missing_member_is_refused(name: str) -> None:
    """Missing is not empty."""
    data = ENTRY.as_json()
    del data[name]
    with pytest.raises(UsageError):
        Entry.from_json(data)


def test_an_entry_without_canonical_form_is_refused() -> None:
    """Integers past 2^53, NaN, and entries past the bound make no leaf."""
    for body in ({"clock": 2**53}, {"loss": float("nan")}, {"text": "x" * MAX_ENTRY}):
        with pytest.raises(UsageError) as refused:
            leaf_data(replace(ENTRY, body=body), SALT)
        assert refused.value.code == "malformed"
    with pytest.raises(UsageError):
        leaf_data(replace(ENTRY, type="No Type"), SALT)
    with pytest.raises(ValueError, match="32 bytes"):
        leaf_data(ENTRY, SALT[:31])


def chain(length: int) -> list[OpenedEntry]:
    shown: list[OpenedEntry] = []
    for i in range(length):
        previous = entry_hash(shown[-1].leaf) if shown else ""
        entry = replace(ENTRY, subject=f"run-{i}", previous=previous)
        salt = bytes([i]) * 32
        shown.append(OpenedEntry(3 * i + 2, leaf_data(entry, salt), salt, entry))
    return shown


def test_a_whole_chain_is_accepted() -> None:
    """All at once, in parts, and none."""
    shown = chain(6)
    last = entry_hash(shown[-1].leaf)
    assert verify_chain(AGREEMENT, shown) == last
    half = verify_chain(AGREEMENT, shown[:3])
    assert verify_chain(AGREEMENT, shown[3:], previous=half, after=shown[2].index) == last
    assert verify_chain(AGREEMENT, []) == ""
    assert last == "sha256:" + leaf_hash(shown[-1].leaf).hex()


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(5)), st.integers(1, 5))
def test_a_chain_with_gaps_or_in_another_order_is_refused(order: list[int], count: int) -> None:
    """Only a beginning of the chain, in order, passes."""
    shown, picked = chain(5), order[:count]
    if picked == list(range(count)):
        verify_chain(AGREEMENT, [shown[i] for i in picked])
        return
    with pytest.raises(IntegrityError) as refused:
        verify_chain(AGREEMENT, [shown[i] for i in picked])
    assert refused.value.code == "broken_chain"


def test_other_breaks_of_a_chain_are_refused() -> None:
    """One entry twice, indices that do not rise, another agreement's entry, a leaf of another entry."""
    shown = chain(3)
    foreign = replace(ENTRY, agreement=digest(b"other"))
    for bad, code in (
        ([shown[0], shown[0]], "broken_chain"),
        ([shown[0], replace(shown[1], index=2)], "broken_chain"),
        ([OpenedEntry(0, leaf_data(foreign, SALT), SALT, foreign)], "broken_chain"),
        ([replace(shown[0], leaf=shown[1].leaf)], "bad_leaf"),
    ):
        with pytest.raises(IntegrityError) as refused:
            verify_chain(AGREEMENT, bad)
        assert refused.value.code == code


def test_a_rewritten_past_breaks_the_chain() -> None:
    """An entry in the middle, exchanged with its leaf, is told by its successor."""
    shown = chain(4)
    entry = replace(shown[1].entry, body={"machine": "another"})
    shown[1] = OpenedEntry(shown[1].index, leaf_data(entry, SALT), SALT, entry)
    with pytest.raises(IntegrityError) as refused:
        verify_chain(AGREEMENT, shown)
    assert refused.value.code == "broken_chain"
