"""Texts that end an answer: nothing of them is given out, also where they come in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perunml.serving.language import Finish


def until_stopped(pieces: Iterator[str | Finish], stops: Sequence[str], prompt_tokens: int) -> Iterator[str | Finish]:
    """`pieces`, one for each token (some may be empty), without the empty ones, up to the first of `stops`; then a `Finish`, which counts the tokens until there."""
    held, count = "", 0
    for piece in pieces:
        if isinstance(piece, Finish):
            if held:
                yield held
            yield piece
            return
        count, held = count + 1, held + piece
        places = [place for stop in stops if (place := held.find(stop)) >= 0]
        if places:
            if before := held[: min(places)]:
                yield before
            yield Finish("stop", prompt_tokens, count)
            return
        keep = max((_begun(held, stop) for stop in stops), default=0)
        if out := held[: len(held) - keep]:
            yield out
        held = held[len(held) - keep :]


def _begun(text: str, stop: str) -> int:
    """How many of the last characters may be the begin of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
