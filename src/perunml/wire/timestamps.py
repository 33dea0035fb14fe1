"""Times as text: RFC 3339 in UTC with second precision, ``2027-06-30T00:00:00Z``. Inside, whole seconds since 1970."""

from __future__ import annotations

import datetime as dt
import re

from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse

# The hour is spelled out because later Pythons read 24:00:00: one time, one spelling.
_FORM = re.compile(r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\dZ", re.ASCII)


def parse_time(text: str) -> int:
    """Seconds since the epoch. Raises `UsageError` (malformed) for any other spelling."""
    if isinstance(text, str) and _FORM.fullmatch(text):
        try:
            return int(dt.datetime.fromisoformat(text).timestamp())
        except ValueError:
            pass
    raise refuse(MALFORMED, "not a time", expected="RFC 3339 in UTC, as 2027-06-30T00:00:00Z", seen=str(text))


def format_time(seconds: int) -> str:
    """``YYYY-MM-DDTHH:MM:SSZ`` of whole seconds since the epoch."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).replace(tzinfo=None).isoformat() + "Z"
