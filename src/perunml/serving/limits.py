"""What the agreement lets a request ask and an answer tell: rows at once, the greatest scores only, rounded.

It stands between the engine, which is the model's, and the answer: the model cannot say more of its scores than was agreed. Numbers are Python's here; this process reads no array library of its own.
"""

from __future__ import annotations

import heapq
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from perunml.serving.codes import BATCH_TOO_LARGE, INFERENCE_FAILED
from perunml.serving.engines import Engine
from perunml.serving.forms import ModelForm
from perunml.serving.tensors import CODES, Tensor, TensorForm
from perunml.wire.errors import refuse

SCORES = ("FP16", "BF16", "FP32", "FP64")
"""Types of what is limited; a whole number is a label, a count or a truth, and leaves as it is."""
INDICES = "_indices"
"""Behind an output's name: the places of the scores that are left."""


@dataclass(frozen=True, slots=True)
class Limited:
    """An `Engine` within limits; None is no limit. Scores are the numbers along an output's last axis: `top_k` of them are left, the greatest first, and a further output says where they stood. An output of
    one number a row is a score of its own."""

    engine: Engine
    batch: int | None = None
    top_k: int | None = None
    digits: int | None = None

    def forms(self) -> ModelForm:
        form = self.engine.forms()
        outputs: list[TensorForm] = []
        for each in form.outputs:
            if each.datatype not in SCORES:
                outputs.append(each)
                continue
            ranked = self.top_k is not None and _has_scores(each.shape, each)
            shape = (*each.shape[:-1], _least(each.shape[-1], self.top_k)) if ranked else each.shape
            outputs.append(TensorForm(each.name, _given_as(each.datatype), shape))
            if ranked:
                outputs.append(TensorForm(each.name + INDICES, "INT64", shape))
        return ModelForm(form.platform, form.inputs, tuple(outputs))

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Raises `LimitReached` (batch_too_large), and as the engine."""
        form = self.engine.forms()
        self._bounded(form, inputs)
        known = {each.name: each for each in form.outputs}
        found: list[Tensor] = []
        for tensor in self.engine.infer(inputs):
            found += self._narrowed(tensor, known.get(tensor.name)) if tensor.datatype in SCORES else [tensor]
        if len({tensor.name for tensor in found}) != len(found):
            raise refuse(INFERENCE_FAILED, "two outputs of the model have one name")
        return found

    def _bounded(self, form: ModelForm, inputs: Sequence[Tensor]) -> None:
        """Rows are an input's first size, where that may vary."""
        vary = {each.name for each in form.inputs if each.shape and each.shape[0] == -1}
        rows = max((tensor.shape[0] for tensor in inputs if tensor.name in vary and tensor.shape), default=1)
        if self.batch is not None and rows > self.batch:
            raise refuse(
                BATCH_TOO_LARGE, "too many rows in one request", expected=f"at most {self.batch}", seen=str(rows)
            )

    def _narrowed(self, tensor: Tensor, form: TensorForm | None) -> list[Tensor]:
        if self.top_k is None and self.digits is None:
            return [tensor]
        values = _numbers(tensor)
        if self.top_k is None or not _has_scores(tensor.shape, form):
            return [_packed(tensor.name, tensor.datatype, tensor.shape, self._rounded(values))]
        width = tensor.shape[-1]
        kept = min(self.top_k, width)
        shape = (*tensor.shape[:-1], kept)
        left: list[float] = []
        places: list[int] = []
        for at in range(0, len(values), width or 1):
            row = values[at : at + width]
            # Of equal ones the first: what is left must not tell more than which are the greatest.
            chosen = heapq.nsmallest(kept, range(width), key=lambda place: (-row[place], place))
            places += chosen
            left += [row[place] for place in chosen]
        scores = _packed(tensor.name, tensor.datatype, shape, self._rounded(left))
        return [scores, Tensor(tensor.name + INDICES, "INT64", shape, struct.pack(f"<{len(places)}q", *places))]

    def _rounded(self, values: list[float]) -> list[float]:
        return values if self.digits is None else [round(value, self.digits) for value in values]


def _has_scores(shape: tuple[int, ...], form: TensorForm | None) -> bool:
    """Whether the last axis is of a row's scores: not where it is the rows themselves."""
    return len(shape) > 1 or (len(shape) == 1 and form is not None and form.shape != (-1,))


def _least(size: int, most: int | None) -> int:
    return size if most is None or size < 0 else min(size, most)


def _given_as(datatype: str) -> str:
    """BF16 has no numbers of Python's; what was rounded leaves as FP32, which holds it."""
    return "FP32" if datatype == "BF16" else datatype


def _numbers(tensor: Tensor) -> list[float]:
    """Raises `JobFailed` (inference_failed): a score that is none, whose place nobody could tell."""
    if tensor.datatype == "BF16":
        halves = struct.unpack(f"<{len(tensor.data) // 2}H", tensor.data)
        values = list(
            struct.unpack(f"<{len(halves)}f", struct.pack(f"<{len(halves)}I", *(half << 16 for half in halves)))
        )
    else:
        values = [number for (number,) in struct.iter_unpack("<" + CODES[tensor.datatype], tensor.data)]
    if not all(map(math.isfinite, values)):
        raise refuse(INFERENCE_FAILED, f"{tensor.name}: a number that is not finite")
    return values


def _packed(name: str, datatype: str, shape: tuple[int, ...], values: list[float]) -> Tensor:
    given = _given_as(datatype)
    return Tensor(name, given, shape, struct.pack(f"<{len(values)}{CODES[given]}", *values))
