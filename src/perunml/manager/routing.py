"""A route as its module declares it."""

from __future__ import annotations

from dataclasses import dataclass

from perunml.api.base import Message
from perunml.manager.http import SMALL, Access, Action


@dataclass(frozen=True, slots=True)
class Spec:
    """`path` with ``{name}`` for a segment and ``{name:path}`` for all the rest; `limit` bounds the body in bytes. `takes` is the message
    that the body must be (None: no message), `query` names what may stand behind the question mark: both for `openapi` to tell."""

    method: str
    path: str
    access: Access
    action: Action
    limit: int = SMALL
    takes: type[Message] | None = None
    query: tuple[str, ...] = ()
