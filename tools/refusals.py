"""Write docs/refusals.md: one line for each rule in the house, then the notes kept by hand.

`python tools/refusals.py` rewrites the table above the marker and leaves what stands below it; `--check` only compares.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import perunml
from perunml.wire.rules import RULES, Kind, Rule

PAGE = Path(__file__).resolve().parents[1] / "docs" / "refusals.md"
MARKER = "<!-- By hand from here on; above, written by tools/refusals.py. -->"
HEAD = """# Refusals

Every way in which Perun says no. A refusal carries one or more of these codes, each with what was expected, what was seen, who can
mend it and, where there is one, the command that does. Codes are stable: they are never renamed or used for another thing.

The exit code of `perunml` is that of the first reason.
"""
MEANING = {
    Kind.USAGE: "the call itself is wrong",
    Kind.AGREEMENT: "the agreement does not allow it",
    Kind.EVIDENCE: "a machine did not prove what it must",
    Kind.PENDING: "somebody has still to approve",
    Kind.SUSPENDED: "suspended or expired",
    Kind.INTEGRITY: "bytes are not what was sealed or signed",
    Kind.LIMIT: "a limit or a resource is used up",
    Kind.UNREACHABLE: "somebody did not answer",
    Kind.JOB: "the job's own code failed",
    Kind.HELD: "an output may not leave (yet)",
}


def rules() -> dict[str, Rule]:
    """All rules, from every `codes` module under `perunml`. Raises `ValueError` for a code declared twice."""
    for module in pkgutil.walk_packages(perunml.__path__, "perunml."):
        if module.name.endswith(".codes"):
            importlib.import_module(module.name)
    return dict(RULES)


def page() -> str:
    """The generated part, up to and with the marker."""
    found = rules().values()
    parts = [HEAD]
    for kind in Kind:
        lines = [
            f"| `{rule.code}` | {_cell(rule.meaning)} | {_cell(rule.mend)} |"
            for rule in sorted(found, key=lambda rule: rule.code)
            if rule.kind is kind
        ]
        if lines:
            head = [
                f"## {kind.value}: {MEANING[kind]}",
                "",
                "| code | refused because | who can mend it |",
                "|---|---|---|",
            ]
            parts.append("\n".join([*head, *lines, ""]))
    return "\n".join([*parts, MARKER])


def main(argv: list[str]) -> int:
    """Exit code 1 when `--check` finds the page out of date."""
    old = PAGE.read_text("utf-8") if PAGE.exists() else ""
    notes = old.partition(MARKER)[2] or "\n"
    new = page() + notes
    if argv == ["--check"]:
        if new != old:
            print("docs/refusals.md is out of date: run tools/refusals.py", file=sys.stderr)
        return int(new != old)
    PAGE.write_text(new, "utf-8")
    return 0


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
