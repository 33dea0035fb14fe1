"""Everything that the command line says passes through here. The rules of its voice:

- Answers go to stdout, in text or as one JSON value. Progress, questions and errors go to stderr.
- A line of text is a plain sentence or "name  value". No colour carries meaning, nothing blinks, no emoji.
- An error has four parts: what, what was seen, who can mend it, the command that does. Its first line is
  ``refused: <code>: <message>`` and stands alone: scripts and people read that line.
- Everything that another program or party wrote is shown without control characters, escapes or bidi marks.
- Whatever a simulated machine or manager saw is called simulated, in the same line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perunml.wire.errors import PerunError
    from perunml.wire.rules import Reason

MAX_LINE = 16 * 1024
"""Characters of one line of text; key texts have 1,700."""
INTERNAL = 1
"""Exit code of a bug in Perun itself."""
INTERRUPTED = 130


def clean(text: object, limit: int = MAX_LINE) -> str:
    """One line that a terminal shows as it is."""
    from perunml.wire.rules import printable

    return printable(str(text), limit)


def table(rows: Iterable[tuple[str, object]]) -> list[str]:
    """ "name  value" lines, values aligned."""
    found = [(name, str(value)) for name, value in rows]
    width = max((len(name) for name, _ in found), default=0)
    return [f"{name:<{width}}  {value}".rstrip() for name, value in found]


def columns(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    """Lines under a head line, columns aligned."""
    cells = [head, *(tuple(clean(cell) for cell in row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


class Voice:
    """Speaks text, or JSON."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def answer(self, value: Any, lines: Iterable[str]) -> None:
        """The command's answer: `value` in JSON, or `lines`."""
        if self.as_json:
            print(_dumps(value), flush=True)
        else:
            for line in lines:
                print(clean(line))
            sys.stdout.flush()

    def note(self, line: str) -> None:
        """A line beside the answer, for people; silent in JSON."""
        if not self.as_json:
            print(clean(line), file=sys.stderr, flush=True)

    def refusal(self, reasons: Iterable[Reason], exit_code: int) -> None:
        """An error in four parts."""
        if self.as_json:
            told = [{**reason.as_json(), "command": mending(reason)} for reason in reasons]
            body = {"exit": exit_code, "reasons": told}
            print(_dumps(body), file=sys.stderr, flush=True)
            return
        for reason in reasons:
            for line in four_parts(reason):
                print(line, file=sys.stderr)
        sys.stderr.flush()


def mending(reason: Reason) -> str:
    """The command that mends it: the reason's own, else the first that its rule names; docs/refusals.md lists the codes that
    no command mends, and why."""
    import re

    named = re.search(r"`((?:perunml|make|swapoff) [^`]+)`", reason.rule.mend)
    return reason.command or (named[1] if named else "")


def _change(reason: Reason) -> str:
    from perunml.wire.rules import Kind

    if reason.rule.kind is not Kind.EVIDENCE:
        return ""
    from perunml.evidence.mend import mends

    return "; ".join(f"by the {found.who}: {found.sentence}" for found in mends([reason]))


def four_parts(reason: Reason) -> list[str]:
    """What, what was seen, who can mend it, and the command, each on its line; empty parts are left out. Where a machine was
    refused and the smallest change that would admit it is known, that stands before the command."""
    seen = reason.seen
    if reason.expected:
        seen = f"{seen or 'nothing'} (expected: {reason.expected})"
    parts = {"seen": seen, "mend": reason.rule.mend, "change": _change(reason), "command": mending(reason)}
    lines = [f"refused: {reason.code}: {reason.message}"]
    return [clean(line) for line in lines + [f"  {name:<8} {text}" for name, text in parts.items() if text]]


def explain(exc: BaseException, voice: Voice) -> int:
    """Say why a command did not do what it was asked, and give its exit code."""
    import click

    from perunml.wire.errors import PerunError

    if isinstance(exc, PerunError):
        voice.refusal(exc.reasons, exc.exit_code)
        return exc.exit_code
    if isinstance(exc, click.exceptions.Exit):
        return exc.exit_code
    if isinstance(exc, (KeyboardInterrupt, click.Abort)):
        voice.note("interrupted")
        return INTERRUPTED
    if isinstance(exc, click.ClickException):
        return _usage(exc, voice)
    if isinstance(exc, OSError):
        return explain(_local(exc), voice)
    would = _would_send(exc)
    if would is not None:
        voice.answer({"would_send": would}, [f"would send: {would['method']} {would['url']}", _dumps(would["body"])])
        return 0
    return _bug(exc, voice)


def _usage(exc: Any, voice: Voice) -> int:
    from perunml.client.codes import USAGE
    from perunml.wire.errors import refuse

    command = f"{exc.ctx.command_path} --help" if getattr(exc, "ctx", None) else "perunml --help"
    return explain(refuse(USAGE, exc.format_message(), command=command), voice)


def _local(exc: OSError) -> PerunError:
    import errno

    from perunml.client.codes import LOCAL_FILE
    from perunml.wire.errors import refuse

    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        from perunml.sealing.codes import DISK_FULL

        return refuse(DISK_FULL, "there is no room left on the disk", seen=str(exc.filename or ""))
    return refuse(LOCAL_FILE, exc.strerror or type(exc).__name__, seen=str(exc.filename or ""))


def _would_send(exc: BaseException) -> dict[str, Any] | None:
    from perunml.client.connection import WouldSend

    if not isinstance(exc, WouldSend):
        return None
    try:
        body = json.loads(exc.body) if exc.body else None
    except ValueError:
        body = f"{len(exc.body)} bytes"
    return {"method": exc.method, "url": exc.url, "body": body}


def _bug(exc: BaseException, voice: Voice) -> int:
    """A defect of Perun's own. The traceback shows places, never values."""
    import traceback

    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(exc.__traceback__)]
    if voice.as_json:
        body: Mapping[str, Any] = {"exit": INTERNAL, "reasons": [], "defect": type(exc).__name__, "at": places}
        print(_dumps(body), file=sys.stderr, flush=True)
    else:
        print(f"perunml: a defect of its own: {type(exc).__name__}", file=sys.stderr)
        for place in places:
            print(f"  at {clean(place)}", file=sys.stderr)
    return INTERNAL


def _dumps(value: Any) -> str:
    # Printable ASCII only (json escapes DEL too), so that no terminal interprets anything in it.
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False)
