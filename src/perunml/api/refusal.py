"""How a manager or service says no: HTTP status by kind, a JSON body with coded reasons."""

from __future__ import annotations

from perunml.api.base import Document, Message
from perunml.wire.errors import PerunError, error
from perunml.wire.rules import Kind, Reason

STATUS: dict[Kind, int] = {
    Kind.USAGE: 400,
    Kind.AGREEMENT: 403,
    Kind.EVIDENCE: 403,
    Kind.PENDING: 409,
    Kind.SUSPENDED: 409,
    Kind.INTEGRITY: 422,
    Kind.LIMIT: 429,
    Kind.UNREACHABLE: 503,
    Kind.JOB: 422,
    Kind.HELD: 403,
}
MAX_REASONS = 64


class RefusalBody(Message):
    reasons: list[Document]

    @classmethod
    def of(cls, exc: PerunError) -> RefusalBody:
        return cls(reasons=[reason.as_json() for reason in exc.reasons[:MAX_REASONS]])

    def error(self) -> PerunError:
        """The error that the other side raised. Raises `ValueError` for a body without reasons."""
        return error(Reason.from_json(reason) for reason in self.reasons[:MAX_REASONS])
