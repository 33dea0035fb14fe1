"""A route as its module declares it."""

from __future__ import annotations

from dataclasses import dataclass

from perunml.manager.http import SMALL, Access, Action


@dataclass(frozen=True, slots=True)
class Spec:
    """`path` with ``{name}`` for a segment and ``{name:path}`` for all the rest; `limit` bounds the body in bytes."""

    method: str
    path: str
    access: Access
    action: Action
    limit: int = SMALL
