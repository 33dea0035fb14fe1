"""Signed documents for whoever audits: those that ledger entries name by digest, as far as the caller may read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from perunml.manager import conditions
from perunml.manager.context import Services
from perunml.manager.library import Held
from perunml.manager.store.connection import Connection
from perunml.manager.store.envelopes import stored
from perunml.wire.dsse import Envelope

_CHANGE = "SELECT envelope FROM changes WHERE digest = :wanted"
_CONDITION = "SELECT envelope FROM conditions WHERE digest = :wanted"
_REQUEST = "SELECT envelope FROM requests WHERE run = :wanted"
_RECEIPT = "SELECT receipt FROM runs WHERE run = :wanted AND receipt != X''"
_SHARES = "SELECT envelope FROM recoveries WHERE asset = :wanted AND line = :line"
_GIVEN = "SELECT envelope FROM given_shares WHERE asset = :wanted AND line = :line ORDER BY rowid"
_OUTPUT_APPROVALS = "SELECT envelope FROM output_approvals WHERE asset = :wanted ORDER BY rowid"


def named_by(
    services: Services, connection: Connection, held: Held, key: str, entries: Sequence[Mapping[str, Any]]
) -> list[Envelope]:
    """The documents that these entries of one agreement name, each once: all that the agreement's parties signed, the manager's
    receipts, and of conditions those on the caller's own assets (`key` is the caller's)."""
    digest = held.agreement.digest

    def rows(statement: str, wanted: object) -> Iterator[Envelope]:
        where = {"wanted": wanted, "line": held.line} if ":line" in statement else {"wanted": wanted}
        for row in connection.run(statement, where):
            yield stored(row[0])

    def condition(entry: Mapping[str, Any]) -> Iterator[Envelope]:
        if conditions.is_owner(services, connection, entry["subject"], key):
            yield from rows(_CONDITION, entry["body"]["change"])

    def approval(_: Mapping[str, Any]) -> Iterator[Envelope]:
        yield from services.library.approvals(connection, digest)

    def withdrawal(_: Mapping[str, Any]) -> Iterator[Envelope]:
        yield from services.library.withdrawals(connection, digest)

    by_type: dict[str, Callable[[Mapping[str, Any]], Iterator[Envelope]]] = {
        "agreement": lambda _: iter([held.envelope]),
        "approval": approval,
        "withdrawal": withdrawal,
        "suspension": lambda entry: rows(_CHANGE, entry["body"]["change"]),
        "condition": condition,
        "run": lambda entry: rows(_REQUEST, entry["subject"]),
        "finished": lambda entry: rows(_RECEIPT, entry["subject"]),
        "failed": lambda entry: rows(_RECEIPT, entry["subject"]),
        "share": lambda entry: rows(_GIVEN, entry["subject"]),
        "recovered": lambda entry: rows(_SHARES, entry["subject"]),
        "output-approval": lambda entry: rows(_OUTPUT_APPROVALS, entry["subject"]),
    }
    found: dict[tuple[str, tuple[tuple[str, bytes], ...]], Envelope] = {}
    once: set[str] = set()
    for entry in entries:
        type_ = entry["type"]
        if type_ not in by_type or type_ in once:
            continue
        if type_ in ("approval", "withdrawal"):
            once.add(type_)  # all of them came with the first
        for envelope in by_type[type_](entry):
            found[envelope.digest, envelope.signatures] = envelope
    return list(found.values())
