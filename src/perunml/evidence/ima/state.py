"""What is known of an IMA log after so many bytes: enough to judge what follows as if all of it were judged again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from perunml.wire.rules import Reason


class Loading(Enum):
    """How far a policy's load is: none is under way; its file was measured; only text of it."""

    NO = 0
    FILE = 1
    TEXT = 2


@dataclass(frozen=True, slots=True)
class Noted:
    """What lines showed that later lines, or the end of the log, are judged by. Numbers count from 1.

    first     digest and path of the first line
    required  of the lines that first measured a file that must be, the last; 0: none did
    policy    the first line that showed an agreed IMA policy; 0: none
    loads     policies that were loaded
    loading   how far the last one's load is
    keys      agreed keys (SubjectPublicKeyInfo, DER) that entered the kernel's keyring -> their certificates' key identifiers
    """

    first: tuple[bytes, bytes] = (b"", b"")
    required: int = 0
    policy: int = 0
    loads: int = 0
    loading: Loading = Loading.NO
    keys: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogState:
    """A log's first `size` bytes, `lines` lines, in which nothing was wrong.

    judged_by  the baseline and its open windows (`Allowed.state`): under another, they are judged again
    values     quoted bank -> PCR 10 before the last line, and after it
    noted      what the lines showed
    """

    judged_by: str
    size: int
    lines: int
    values: Mapping[str, tuple[bytes, bytes]]
    noted: Noted


@dataclass(frozen=True, slots=True)
class LogFindings:
    """`lines` in the log, of them `proven` by the quote, and every reason why they are not good enough. With no reason,
    the `state` from which more of the log can be judged."""

    lines: int
    proven: int
    reasons: tuple[Reason, ...]
    state: LogState | None = None
