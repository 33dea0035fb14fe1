"""What a checker thinks of a proposal: every reason not to sign it, or none. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from perunml.agreements.diff import Effect, diff
from perunml.agreements.flows import outputs_of
from perunml.agreements.jobs import TrainingJob
from perunml.agreements.profiles import alternatives
from perunml.agreements.schema import Agreement
from perunml.client.checker.facts import Fact, facts
from perunml.client.checker.rules import CodeRules, Rules
from perunml.wire.quantities import format_size
from perunml.wire.timestamps import format_time

Files = Mapping[str, bytes]
"""Content by path, of one asset."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason not to sign: which of the rules, and why."""

    rule: str
    words: str


@dataclass(frozen=True, slots=True)
class Code:
    """A code asset opened from this home: its files, those of the version that was agreed before, where there is one, and which file
    is run: it is Python whatever it is called."""

    files: Files
    before: Files | None = None
    entry: str = ""


def findings(
    rules: Rules, agreement: Agreement, predecessor: Agreement | None, code: Mapping[str, Code | str]
) -> list[Finding]:
    """Everything that speaks against signing; empty when nothing does. `code` has each code asset that was opened, or the words
    why it could not be."""
    found = list(_document(rules, agreement, predecessor))
    for name, asset in agreement.assets.items():
        if asset.kind == "code":
            found += _asset(rules, name, code.get(name, "it is not here"))
    return found


def code_findings(name: str, rules: CodeRules, code: Code) -> list[Finding]:
    """Of one code asset by itself."""
    return list(_code(f"code.{name}", rules, code))


def _document(rules: Rules, agreement: Agreement, predecessor: Agreement | None) -> Iterator[Finding]:
    if agreement.name not in rules.agreements:
        yield Finding("agreements", f"{agreement.name} is none of {', '.join(rules.agreements)}")
    if rules.versions == "narrowing":
        if predecessor is None:
            yield Finding("versions", "a first version, or one whose predecessor is not here, is not a narrowing")
        else:
            for change in diff(predecessor, agreement):
                if change.effect is not Effect.NARROWS:
                    yield Finding("versions", change.sentence)
    for job, name, output in outputs_of(agreement):
        where, outputs = f"{job}.outputs.{name}", rules.outputs
        if outputs is None:
            continue
        if outputs.formats is not None and output.form not in outputs.formats:
            yield Finding("outputs.formats", f"{where} is {output.form}, not {' or '.join(outputs.formats)}")
        if outputs.max_size is not None and output.max_size > outputs.max_size:
            yield Finding(
                "outputs.max_size",
                f"{where}: {format_size(output.max_size)}, more than {format_size(outputs.max_size)}",
            )
        if outputs.to is not None and (others := sorted(set(output.to) - set(outputs.to))):
            yield Finding("outputs.to", f"{where} goes to {', '.join(others)}")
    yield from _limits(rules, agreement)
    if rules.profiles is not None:
        for name, role in agreement.hosts.items():
            for profile in alternatives(role):
                if any(part not in rules.profiles for part in profile.profile.split("+")):
                    yield Finding("profiles", f"the role {name} takes a host that is {profile.profile}")


def _limits(rules: Rules, agreement: Agreement) -> Iterator[Finding]:
    limits = rules.limits
    if limits is None:
        return
    for name, job in agreement.jobs.items():
        if limits.until is not None and job.limits.until > limits.until:
            yield Finding("limits.until", f"{name} may run until {format_time(job.limits.until)}")
        if not isinstance(job, TrainingJob):
            continue
        if limits.runs is not None and job.limits.runs > limits.runs:
            yield Finding("limits.runs", f"{name} may run {job.limits.runs} times, more than {limits.runs}")
        if limits.wall is not None and job.limits.wall > limits.wall:
            yield Finding("limits.wall", f"{name} may run {job.limits.wall} s, more than {limits.wall} s")


def _asset(rules: Rules, name: str, code: Code | str) -> Iterator[Finding]:
    wanted = (rules.code or {}).get(name)
    if wanted is None:
        yield Finding("code", f"there is no rule for the code {name}")
    elif isinstance(code, str):
        yield Finding(f"code.{name}", f"{name} cannot be looked at: {code}")
    else:
        yield from _code(f"code.{name}", wanted, code)


def _code(where: str, rules: CodeRules, code: Code) -> Iterator[Finding]:
    size = sum(map(len, code.files.values()))
    if rules.max_size is not None and size > rules.max_size:
        yield Finding(f"{where}.max_size", f"{format_size(size)}, more than {format_size(rules.max_size)}")
    for path, data in sorted(code.files.items()):
        if rules.files is not None and not any(_matches(path, pattern) for pattern in rules.files):
            yield Finding(f"{where}.files", f"{path} is no file of those that are allowed")
        if (rules.forbid is not None or rules.imports is not None) and (path == code.entry or _is_python(path, data)):
            for fact in facts(path, data):
                yield from _fact(where, rules, code.files, fact)
        elif (rules.forbid is not None or rules.imports is not None) and not _is_text(data):
            yield Finding(f"{where}.forbid", f"{path} is no text: what it may do cannot be read")
    if rules.changed is not None:
        if code.before is None:
            yield Finding(f"{where}.changed", "the version agreed before is not here")
        elif (lines := changed_lines(code.before, code.files)) > rules.changed:
            yield Finding(
                f"{where}.changed", f"{lines} lines differ from the version agreed before, more than {rules.changed}"
            )


def _fact(where: str, rules: CodeRules, files: Files, fact: Fact) -> Iterator[Finding]:
    if fact.kind == "unreadable":
        yield Finding(f"{where}.forbid", fact.sentence)
    elif fact.kind == "imports":
        own = any(path == f"{fact.what}.py" or path.startswith(f"{fact.what}/") for path in files)
        if rules.imports is not None and fact.what not in rules.imports and not own:
            yield Finding(f"{where}.imports", f"{fact.file}:{fact.line}: import {fact.what}")
    elif rules.forbid is not None and fact.kind in rules.forbid:
        yield Finding(f"{where}.forbid", fact.sentence)


def changed_lines(before: Files, after: Files) -> int:
    """How many lines were added, taken away or altered over all files; of a file that is no text, every line of it."""
    count = 0
    for path in {*before, *after}:
        old, new = (files.get(path, b"").splitlines() for files in (before, after))
        if old == new:
            continue
        for tag, first, last, start, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            if tag != "equal":
                count += max(last - first, end - start)
    return count


def _is_python(path: str, data: bytes) -> bool:
    return path.endswith((".py", ".pyi", ".pyw")) or (data.startswith(b"#!") and b"python" in data.split(b"\n", 1)[0])


def _is_text(data: bytes) -> bool:
    try:
        return "\x00" not in data.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _matches(path: str, pattern: str) -> bool:
    """``*`` within a folder, ``**`` across."""
    parts = {"*": "[^/]*", "**": ".*"}
    form = "".join(parts.get(part) or re.escape(part) for part in re.split(r"(\*\*|\*)", pattern))
    return re.fullmatch(form, path) is not None
