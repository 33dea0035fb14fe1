"""What a language model does for its service, whichever engine runs it: it continues a conversation piece by piece, and turns texts into vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

MAX_TEXT = 4 * 2**20
"""Characters of one request's texts together."""
MAX_MESSAGES = 1024
MAX_TEXTS = 256
"""Texts of one request for vectors."""
MAX_TOKENS = 16384
"""Tokens of one answer at the most; a model's context may say less."""
DEFAULT_TOKENS = 1024
ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is of `ROLES`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: `temperature` 0 takes the likeliest. The same `seed` gives the same answer, as far as the engine can; without one, each is another. The answer ends before the
    first of the texts in `stop`."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an answer, and how many tokens it took: ``length`` where the bound cut it."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Vectors:
    """One vector for each text, all of one length, and the tokens of the texts."""

    values: tuple[tuple[float, ...], ...]
    tokens: int


class LanguageEngine(Protocol):
    """A loaded language model, asked from several threads at once."""

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str | Finish]:
        """The answer's text in pieces, then its `Finish`. Who closes the iterator wants no more. Raises `UsageError` (inputs_refused: too long for the model) and `JobFailed`
        (inference_failed)."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Raises as `chat`."""
        ...
