"""Why a job does not run, asked of the manager that decides it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from perunml.api.why import Why
from perunml.client.agreements import resolve

if TYPE_CHECKING:
    from perunml.client.connection import Connection

_RUN = re.compile(r"[0-9a-f]{32}(-[0-9a-f]{16})?")
"""The second part: of a lost manager's run whose id another run has (docs/spec/recovery.md)."""


def why(connection: Connection, what: str) -> Why:
    """Everything that stands in the way of a run (its id), or of a job that is not submitted yet (``agreement/job``, the agreement
    by name or digest). Raises `AgreementRefusal` (not_entitled, job_unknown), `UsageError` (not_found)."""
    if _RUN.fullmatch(what):
        return connection.call("GET", f"/v1/runs/{what}/why", Why)
    agreement, _, job = what.rpartition("/")
    digest = resolve(connection, agreement or job)
    return connection.call(
        "GET", f"/v1/agreements/{quote(digest)}/why?job={quote(job if agreement else '', safe='')}", Why
    )
