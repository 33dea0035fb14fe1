"""Renewals that come together share one quote; nobody waits for nothing, and a failure reaches each who asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from perunml.evidence.binding import MAX_BINDINGS
from perunml.evidence.bundle import Bundle
from perunml.host.gather import Gatherer
from perunml.testing.forge import ForgedTpm

LONG = 60.0
"""A window that no test waits for."""


def binding(number: int) -> bytes:
    return number.to_bytes(48)


class Tpm:
    """A forged TPM that counts its quotes; while `gate` is shut, the one at work does not end."""

    def __init__(self) -> None:
        self.inner = ForgedTpm()
        self.quotes: list[int] = []
        self.gate, self.at_work = threading.Event(), threading.Event()
        self.gate.set()
        self.failure: Exception | None = None

    def collect_many(self, bindings: Sequence[bytes]) -> Mapping[bytes, Bundle]:
        self.quotes.append(len(bindings))
        self.at_work.set()
        assert self.gate.wait(LONG)
        if self.failure:
            raise self.failure
        return self.inner.collect_many(bindings)


def others(bundle: Bundle) -> int:
    return len(bundle.parts[0].others)  # type: ignore[union-attr]


def until(gatherer: Gatherer, count: int) -> None:
    """Until as many wait."""
    end = time.monotonic() + LONG
    while len(gatherer._waiting) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_renewals_in_one_window_share_a_quote() -> None:
    """Three renewals, each with the other two beside it in the quote."""
    tpm = Tpm()
    gatherer = Gatherer(tpm, window=0.5)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda n: gatherer.collect(binding(n), patient=True), range(3)))
    assert tpm.quotes == [3]
    assert [others(bundle) for bundle in found] == [2, 2, 2]


def test_a_release_does_not_wait_and_takes_along_who_waits() -> None:
    """A window of a minute ends with the first who cannot wait."""
    tpm = Tpm()
    gatherer = Gatherer(tpm, window=LONG)
    with ThreadPoolExecutor(2) as pool:
        renewal = pool.submit(gatherer.collect, binding(1), patient=True)
        until(gatherer, 1)
        assert others(gatherer.collect(binding(2))) == 1
        assert others(renewal.result(LONG)) == 1
    assert tpm.quotes == [2]


def test_who_comes_while_the_tpm_works_shares_the_next_quote() -> None:
    """Four requests during one slow quote cost one more."""
    tpm = Tpm()
    gatherer = Gatherer(tpm)
    tpm.gate.clear()
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(gatherer.collect, binding(0))
        assert tpm.at_work.wait(LONG)
        later = [pool.submit(gatherer.collect, binding(n)) for n in range(1, 5)]
        until(gatherer, 4)
        tpm.gate.set()
        assert others(first.result(LONG)) == 0
        assert [others(each.result(LONG)) for each in later] == [3] * 4
    assert tpm.quotes == [1, 4]


def test_more_than_one_quote_can_hold_are_served_in_turn() -> None:
    """The bound of a quote's bindings is no bound of a host's."""
    tpm = Tpm()
    gatherer = Gatherer(tpm)
    tpm.gate.clear()
    with ThreadPoolExecutor(MAX_BINDINGS + 4) as pool:
        first = pool.submit(gatherer.collect, binding(0))
        assert tpm.at_work.wait(LONG)
        rest = [pool.submit(gatherer.collect, binding(n)) for n in range(1, MAX_BINDINGS + 3)]
        until(gatherer, MAX_BINDINGS + 2)
        tpm.gate.set()
        assert all(each.result(LONG).parts for each in [first, *rest])
    assert tpm.quotes[:2] == [1, MAX_BINDINGS]
    assert sum(tpm.quotes) == MAX_BINDINGS + 3


def test_a_failure_reaches_each_who_asked_and_the_next_try_works() -> None:
    """No thread is left waiting, and no failure outlives its quote."""
    tpm = Tpm()
    tpm.failure = RuntimeError("the TPM is gone")
    gatherer = Gatherer(tpm, window=0.2)
    with ThreadPoolExecutor(3) as pool:
        for each in [pool.submit(gatherer.collect, binding(n), patient=True) for n in range(3)]:
            with pytest.raises(RuntimeError, match="gone"):
                each.result(LONG)
    tpm.failure = None
    assert others(gatherer.collect(binding(9))) == 0
