"""Kernel command lines, read as the kernel reads them (Linux, lib/cmdline.c `next_arg`, kernel/params.c `parse_args`).

A word in quotes is the word without them; `-` and `_` in a name are the same; what follows ``--`` is init's. A rule that
forgot one of these would be passed by by whoever writes the line.
"""

from __future__ import annotations

from collections.abc import Iterator

from perunml.evidence.codes import KERNEL_CMDLINE
from perunml.evidence.rules import BootRules
from perunml.wire.rules import Reason, printable

MAX_LINE = 2047
"""Characters that the kernel reads (COMMAND_LINE_SIZE on x86 and arm64 is 2,048 with the NUL): what follows is cut off."""
_SHOWN = 200
_FOR_INIT = "--"


def appraise_line(line: str, rules: BootRules) -> Iterator[Reason]:
    """Every way in which a measured line is not what the rules ask: a demanded word is missing or contradicted by another
    value of the same name, a forbidden one is there, or the line has characters that the kernel may read otherwise."""
    if not line.isascii() or not line.isprintable():
        yield _reason("the kernel's command line is not of printable words", "printable ASCII", line)
        return
    if len(line) > MAX_LINE:
        seen = f"{len(line)} characters"
        yield _reason("the kernel's command line is longer than the kernel reads", f"at most {MAX_LINE}", seen)
        return
    words = kernel_words(line)
    demanded = {_normal(word): word for word in rules.cmdline}
    if missing := sorted(word for normal, word in demanded.items() if normal not in words):
        yield _reason("the kernel's command line lacks agreed words", " ".join(missing), line)
    settled = {normal.partition("=")[0] for normal in demanded if "=" in normal}
    if other := [w for w in words if w not in demanded and w.partition("=")[0] in settled]:
        expected = " ".join(sorted(rules.cmdline))
        yield _reason("the kernel's command line gives an agreed word another value as well", expected, " ".join(other))
    forbidden = {_normal(word) for word in rules.no_cmdline}
    if found := [w for w in words if w in forbidden or w.partition("=")[0] + "=" in forbidden]:
        expected = "none of " + " ".join(sorted(rules.no_cmdline))
        yield _reason("the kernel's command line holds words that are not allowed", expected, " ".join(found))


def kernel_words(line: str) -> list[str]:
    """The words that the kernel takes for its own, without quotes, names with `_` for `-`."""
    found = []
    at = 0
    while (at := _skip_blanks(line, at)) < len(line):
        word, at = _next(line, at)
        if word == _FOR_INIT:
            break
        found.append(_normal(word))
    return found


def _skip_blanks(line: str, at: int) -> int:
    while at < len(line) and line[at] == " ":
        at += 1
    return at


def _next(line: str, at: int) -> tuple[str, int]:
    """The word that begins at `at`, and where it ends, as `next_arg` cuts it: a blank inside of double quotes does not end
    it; quotes go that stand around the whole word, or around its value; others stay."""
    quoted = inside = line[at] == '"'
    begin = end = at + quoted
    equals = 0
    while end < len(line) and (inside or line[end] != " "):
        if line[end] == "=" and not equals:
            equals = end - begin
        inside ^= line[end] == '"'
        end += 1
    word = line[begin:end]
    closed = word.endswith('"')
    if equals and word[equals + 1 : equals + 2] == '"':
        value = word[equals + 2 :]
        return word[: equals + 1] + value.removesuffix('"'), end
    return word[:-1] if quoted and closed else word, end


def _normal(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("-", "_") + equals + value if word != _FOR_INIT else word


def _reason(message: str, expected: str, seen: str) -> Reason:
    return Reason(KERNEL_CMDLINE, message, expected=printable(expected, _SHOWN), seen=printable(seen, _SHOWN))
