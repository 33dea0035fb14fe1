"""The tree of errors. Everything Perun raises on purpose is a `PerunError` with coded reasons.

    PerunError
    ├── UsageError          exit  2  the call itself is wrong
    ├── AgreementRefusal    exit 10  the agreement does not allow it
    ├── EvidenceRefusal     exit 11  a machine did not prove what it must
    ├── ApprovalPending     exit 12  somebody has still to approve
    ├── SuspendedError      exit 13  suspended or expired
    ├── IntegrityError      exit 14  bytes are not what was sealed or signed
    ├── LimitReached        exit 15  a limit or a resource is used up
    ├── Unreachable         exit 16  somebody did not answer
    ├── JobFailed           exit 17  the job's own code failed
    └── OutputHeld          exit 18  an output may not leave (yet)

A caller's bug is a `TypeError`, `ValueError` or `AssertionError` as everywhere in Python, never a `PerunError`.
"""

from __future__ import annotations

from collections.abc import Iterable

from perunml.wire.rules import Kind, Reason, Rule


class PerunError(Exception):
    """Refused, with at least one reason; `reasons[0]` decides the exit code."""

    def __init__(self, reasons: Iterable[Reason]) -> None:
        self.reasons: tuple[Reason, ...] = tuple(reasons)
        if not self.reasons:
            raise ValueError("an error needs a reason")
        super().__init__("; ".join(f"{r.code}: {r.message}" for r in self.reasons))

    @property
    def code(self) -> str:
        return self.reasons[0].code

    @property
    def exit_code(self) -> int:
        return self.reasons[0].rule.kind.value


class UsageError(PerunError):
    pass


class AgreementRefusal(PerunError):
    pass


class EvidenceRefusal(PerunError):
    pass


class ApprovalPending(PerunError):
    pass


class SuspendedError(PerunError):
    pass


class IntegrityError(PerunError):
    pass


class LimitReached(PerunError):
    pass


class Unreachable(PerunError):
    pass


class JobFailed(PerunError):
    pass


class OutputHeld(PerunError):
    pass


_CLASS: dict[Kind, type[PerunError]] = {
    Kind.USAGE: UsageError,
    Kind.AGREEMENT: AgreementRefusal,
    Kind.EVIDENCE: EvidenceRefusal,
    Kind.PENDING: ApprovalPending,
    Kind.SUSPENDED: SuspendedError,
    Kind.INTEGRITY: IntegrityError,
    Kind.LIMIT: LimitReached,
    Kind.UNREACHABLE: Unreachable,
    Kind.JOB: JobFailed,
    Kind.HELD: OutputHeld,
}


def error(reasons: Iterable[Reason]) -> PerunError:
    """The error of the class that the first reason's kind names."""
    found = tuple(reasons)
    if not found:
        raise ValueError("an error needs a reason")
    return _CLASS[found[0].rule.kind](found)


def refuse(rule: Rule, message: str, *, expected: str = "", seen: str = "", command: str = "") -> PerunError:
    """The error for one reason: ``raise refuse(RULE, "what happened", seen=...)``."""
    return error([Reason(rule, message, expected, seen, command)])
