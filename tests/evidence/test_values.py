"""PCR values that nobody told: found from the logs and a baseline by the digest that the quote signs, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.ima.parse import parse_log
from perunml.evidence.offline.values import MAX_TRIED, prove_values, unexplained
from perunml.evidence.tpm.attest import Attest, Clock
from perunml.testing.forge import ForgedTpm

Values = Mapping[str, Mapping[int, bytes]]


def attest_of(values: Values, hash_name: str = "sha256") -> Attest:
    """A quote's content over exactly these values."""
    selection = tuple((bank, tuple(sorted(held))) for bank, held in values.items())
    digest = hashlib.new(hash_name, b"".join(values[bank][i] for bank, indices in selection for i in indices)).digest()
    return Attest(b"", b"", Clock(0, 0, 0, True), 0, selection, digest)


def value(number: int, bank: str = "sha256") -> bytes:
    return hashlib.new(bank, bytes([number])).digest()


def test_values_of_the_boot_log() -> None:
    """What it extends, and the reset value of what it does not: zero, or all ones from 17 to 22."""
    replayed = {"sha256": {0: value(0), 7: value(7)}}
    quoted = {"sha256": {0: value(0), 5: bytes(32), 7: value(7), 17: b"\xff" * 32, 23: bytes(32)}}
    found = prove_values(attest_of(quoted), "sha256", replayed, None, {})
    assert found is not None
    assert (found.pcrs, found.covered) == (quoted, None)
    assert unexplained(attest_of(quoted), replayed, False) == (("sha256", 5), ("sha256", 17), ("sha256", 23))
    other = {"sha256": {**quoted["sha256"], 17: bytes(32)}}
    assert prove_values(attest_of(other), "sha256", replayed, None, {}) is not None


def test_q5_only_the_signed_selection_is_found() -> None:
    """Q5, Q8: a log's PCRs that are not quoted are not among the values."""
    replayed = {"sha256": {0: value(0), 4: value(4)}, "sha1": {0: value(0, "sha1")}}
    found = prove_values(attest_of({"sha256": {4: value(4)}}), "sha256", replayed, None, {})
    assert found is not None
    assert found.pcrs == {"sha256": {4: value(4)}}


def test_a_wrong_value_in_any_place_is_no_proof() -> None:
    """Q25, E1: one PCR more, one bit other, two swapped."""
    replayed = {"sha256": {0: value(0), 1: value(1)}}
    for wrong in (
        {0: value(0), 1: value(2)},
        {0: value(1), 1: value(0)},
        {0: value(0), 1: value(1), 2: value(2)},
    ):
        assert prove_values(attest_of({"sha256": wrong}), "sha256", replayed, None, {}) is None


def test_the_prefix_of_the_ima_log_is_searched_in_every_bank_at_once() -> None:
    """I1: PCR 10 in the middle of the selection, and in two banks that must agree on the prefix."""
    tpm = ForgedTpm(banks=("sha1", "sha256"))
    last = tpm.lines[-1].encoded
    shorter = parse_log(tpm.ima_log.removesuffix(last))[0]
    lines = parse_log(tpm.ima_log)[0]
    quoted = {bank: {index: tpm.pcrs[bank][index] for index in (9, 10, 12)} for bank in ("sha1", "sha256")}
    replayed = {bank: {9: tpm.pcrs[bank][9]} for bank in quoted}
    found = prove_values(attest_of(quoted), "sha256", replayed, lines, {})
    assert found is not None
    assert (found.pcrs, found.covered) == (quoted, len(lines))
    tpm.measure("/later", b"x")
    longer = parse_log(tpm.ima_log)[0]
    found = prove_values(attest_of(quoted), "sha256", replayed, longer, {})
    assert found is not None
    assert found.covered == len(lines)
    assert prove_values(attest_of(quoted), "sha256", replayed, shorter, {}) is None
    torn = {**quoted, "sha1": {**quoted["sha1"], 10: tpm.pcrs["sha1"][10]}}  # one bank further than the other
    assert prove_values(attest_of(torn), "sha256", replayed, longer, {}) is None


def test_i9_an_untouched_pcr_10_is_found_as_no_line_at_all() -> None:
    """I9: nothing of the log is proven."""
    lines = parse_log(ForgedTpm().ima_log)[0]
    found = prove_values(attest_of({"sha256": {10: bytes(32)}}), "sha256", {}, lines, {})
    assert found is not None
    assert found.covered == 0


def test_a_baselines_values_are_tried_where_the_logs_do_not_fit() -> None:
    """And only those that the digest proves; windows give several. What is tried is bounded."""
    quoted = {"sha256": {0: value(1), 4: value(4)}}
    agreed = {"sha256": {0: frozenset({value(0), value(1)}), 4: frozenset({value(4), value(5)})}}
    found = prove_values(attest_of(quoted), "sha256", {"sha256": {4: value(4)}}, None, agreed)
    assert found is not None
    assert found.pcrs == quoted
    many = {"sha256": {index: frozenset(value(n) for n in range(4)) for index in range(10)}}
    last = {"sha256": {index: sorted(many["sha256"][index])[-1] for index in range(10)}}
    assert MAX_TRIED < 4**10
    assert prove_values(attest_of(last), "sha256", {}, None, many) is None


def test_the_digest_is_by_the_signatures_hash() -> None:
    """Part 1, 18.4: SHA-384 for a P-384 key."""
    quoted = {"sha384": {0: value(0, "sha384")}}
    assert BANK_SIZES["sha384"] == len(quoted["sha384"][0])
    assert prove_values(attest_of(quoted, "sha384"), "sha384", quoted, None, {}) is not None
    assert prove_values(attest_of(quoted, "sha384"), "sha256", quoted, None, {}) is None
