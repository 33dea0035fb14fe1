"""Why a job does not run: GET /v1/runs/{run}/why, GET /v1/agreements/{digest}/why?job=. For the agreement's parties alone."""

from __future__ import annotations

from perunml.api.base import Document, Message


class OwnCondition(Message):
    """A member of one of the caller's own conditions that is not met."""

    asset: str
    condition: str
    member: str
    expected: str
    seen: str


class Why(Message):
    """`state` is ``clear`` (nothing stands in the way), ``pending`` (somebody has still to do something), ``refused``, or of a run that is
    under way or over its state. `reasons`: every one, as wire.rules.Reason in JSON; of others' conditions only whose they are."""

    agreement: str
    job: str
    run: str
    state: str
    reasons: list[Document]
    conditions: list[OwnCondition]
