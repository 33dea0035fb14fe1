"""The HTTP request that a sealed one carries, and what answers it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Inner:
    """What a client asks, opened: names of `headers` in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Reply:
    """`parts` of the body as they come: one, or a stream's."""

    status: int
    headers: Mapping[str, str]
    parts: Iterable[bytes | memoryview]


class Handler(Protocol):
    """Answers in a thread that may wait; raises `PerunError`, which becomes a sealed refusal."""

    def __call__(self, request: Inner) -> Reply: ...
