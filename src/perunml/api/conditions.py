"""Owners' conditions: POST /v1/conditions, GET /v1/conditions?subject=. Their owner's keys alone see them."""

from __future__ import annotations

from perunml.api.base import Document, Message, Signed


class ChangeCondition(Message):
    """DSSE kind "Condition" (agreements.conditions)."""

    change: Signed


class ConditionView(Message):
    """A condition in force; `change` is the digest by which refusals name it, `runs` how many it has counted."""

    name: str
    change: str
    condition: Document
    runs: int


class ConditionList(Message):
    """`head` is the newest change, the `previous` of the next."""

    subject: str
    head: str
    conditions: list[ConditionView]
