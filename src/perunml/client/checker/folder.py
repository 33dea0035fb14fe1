"""A folder of code, before it is sealed: what a checker would have against it."""

from __future__ import annotations

from pathlib import Path

from perunml.client.checker.judge import Code, Finding, code_findings
from perunml.client.checker.rules import CodeRules, Rules
from perunml.client.codes import AMBIGUOUS
from perunml.sealing.writer import collect
from perunml.wire.errors import refuse


def folder_findings(rules: Rules, folder: Path) -> list[Finding]:
    """By the rules of the one code asset that they name; how much changed is not asked, for there is no version before. Raises `UsageError`
    (ambiguous): they name none, or several; what sealing the folder would refuse."""
    if len(rules.code or {}) != 1:
        seen = ", ".join(rules.code or {}) or "no code"
        raise refuse(AMBIGUOUS, "which rules are the folder's?", expected="rules for one code asset", seen=seen)
    ((name, wanted),) = (rules.code or {}).items()
    files = {path: source.read_bytes() for path, source in collect(folder).items()}
    return code_findings(name, CodeRules.model_construct(**{**dict(wanted), "changed": None}), Code(files))
