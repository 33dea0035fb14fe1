"""Requests that come close together, computed together: where the agreement says `batching`, and no longer than it says.

Only for models whose inputs and outputs say that their first size may vary: rows of several requests are put one after the other, and the outputs' rows given back to whom they belong. That
a row's result does not depend on the rows beside it is the model's to keep, and the parties' to agree on. A batch that fails is computed again request by request, so that nobody hears of another's fault.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from perunml.serving.engines import Engine
from perunml.serving.forms import ModelForm
from perunml.serving.tensors import MAX_ELEMENTS, Tensor
from perunml.wire.errors import PerunError

Signature = tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(slots=True)
class _Waiting:
    """One request, and what became of it."""

    inputs: list[Tensor]
    rows: int
    done: threading.Event = field(default_factory=threading.Event)
    outputs: list[Tensor] | None = None
    failure: BaseException | None = None


@dataclass(slots=True)
class _Batch:
    """Requests of one signature, in the order in which they came. `full` is set when no other goes in."""

    requests: list[_Waiting] = field(default_factory=list)
    rows: int = 0
    full: threading.Event = field(default_factory=threading.Event)


class Batching:
    """An `Engine` that asks `engine` for at most `rows` rows at once; a request waits at most `delay` seconds for others, and as long as the engine is busy. The first of a batch computes
    for all of it, so there is no thread of its own, and nothing to stop."""

    def __init__(self, engine: Engine, rows: int, delay: float) -> None:
        self._engine, self._rows, self._delay = engine, rows, delay
        self._guard = threading.Lock()
        self._computing = threading.Lock()
        self._open: dict[Signature, _Batch] = {}

    def forms(self) -> ModelForm:
        return self._engine.forms()

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Raises as the engine does, for this request alone."""
        ordered, rows = self._rowwise(inputs)
        if not 0 < rows < self._rows or rows * _widest(ordered) > MAX_ELEMENTS:
            with self._computing:
                return self._engine.infer(inputs)
        mine = _Waiting(ordered, rows)
        signature = tuple((tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in ordered)
        batch, first = self._joined(signature, mine)
        if first:
            self._lead(signature, batch)
        mine.done.wait()
        if mine.failure is not None:
            raise mine.failure
        assert mine.outputs is not None
        return mine.outputs

    def _rowwise(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], int]:
        """The inputs in the model's order and their rows; no rows for what cannot be put beside others."""
        forms = self._engine.forms()
        given = {tensor.name: tensor for tensor in inputs}
        rows = {tensor.shape[0] if tensor.shape else 0 for tensor in inputs}
        vary = all(form.shape and form.shape[0] == -1 for form in (*forms.inputs, *forms.outputs))
        if not vary or not forms.outputs or len(rows) != 1 or len(given) != len(inputs):
            return list(inputs), 0
        if set(given) != {form.name for form in forms.inputs}:
            return list(inputs), 0
        return [given[form.name] for form in forms.inputs], rows.pop()

    def _joined(self, signature: Signature, mine: _Waiting) -> tuple[_Batch, bool]:
        """The open batch that has room for it, or a new one, which it leads."""
        with self._guard:
            batch = self._open.get(signature)
            room = batch is not None and self._fits(batch, mine)
            if batch is not None and not room:
                batch.full.set()
            if batch is None or not room:
                batch = self._open[signature] = _Batch()
            batch.requests.append(mine)
            batch.rows += mine.rows
            if batch.rows >= self._rows:
                batch.full.set()
                self._open.pop(signature, None)
            return batch, len(batch.requests) == 1

    def _fits(self, batch: _Batch, mine: _Waiting) -> bool:
        rows = batch.rows + mine.rows
        return rows <= self._rows and rows * _widest(mine.inputs) <= MAX_ELEMENTS

    def _lead(self, signature: Signature, batch: _Batch) -> None:
        """Wait for others, then for the engine; what came until then is computed, and nobody is left waiting."""
        batch.full.wait(self._delay)
        with self._computing:
            with self._guard:
                if self._open.get(signature) is batch:
                    del self._open[signature]
            try:
                self._compute(batch)
            finally:
                for request in batch.requests:
                    request.done.set()

    def _compute(self, batch: _Batch) -> None:
        together = batch.requests
        if len(together) > 1 and self._shared(batch):
            return
        for request in together:
            try:
                request.outputs = self._engine.infer(request.inputs)
            except BaseException as exc:  # told to the one who asked, in its own thread
                request.failure = exc

    def _shared(self, batch: _Batch) -> bool:
        """Whether the requests could be computed as one."""
        try:
            outputs = self._engine.infer(_stacked(batch))
        except PerunError:
            return False
        if any(not tensor.shape or tensor.shape[0] != batch.rows for tensor in outputs):
            return False  # rows of nobody knows whom
        at = 0
        for request in batch.requests:
            request.outputs = [_rows_of(tensor, at, request.rows) for tensor in outputs]
            at += request.rows
        return True


def _widest(inputs: Sequence[Tensor]) -> int:
    """Elements of one row of the largest input."""
    return max((math.prod(tensor.shape[1:]) for tensor in inputs), default=0)


def _stacked(batch: _Batch) -> list[Tensor]:
    """All rows of each input: row by row in memory, so they lie one after the other."""
    first = batch.requests[0].inputs
    return [
        Tensor(
            tensor.name,
            tensor.datatype,
            (batch.rows, *tensor.shape[1:]),
            b"".join(request.inputs[place].data for request in batch.requests),
        )
        for place, tensor in enumerate(first)
    ]


def _rows_of(tensor: Tensor, first: int, count: int) -> Tensor:
    size = len(tensor.data) // tensor.shape[0]
    data = memoryview(tensor.data)[first * size : (first + count) * size]
    return Tensor(tensor.name, tensor.datatype, (count, *tensor.shape[1:]), data)
