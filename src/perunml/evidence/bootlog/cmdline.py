"""Kernel command lines, read as the kernel reads them (Linux, lib/cmdline.c `next_arg`, kernel/params.c `parse_args`).

A word in quotes is the word without them; `-` and `_` in a name are the same; what follows ``--`` is init's. A rule that
forgot one of these would be passed by by whoever writes the line.
"""

from __future__ import annotations

from collections.abc import Iterator

from perunml.evidence.codes import KERNEL_CMDLINE
from perunml.evidence.rules import BootRules
from perunml.wire.rules import Reason, printable

_SHOWN = 200
_FOR_INIT = "--"


def appraise_line(line: str, rules: BootRules) -> Iterator[Reason]:
    """Every way in which a measured line is not what the rules ask: a demanded word is missing or contradicted by another
    value of the same name, a forbidden one is there, or the line has characters that the kernel may read otherwise."""
    if not line.isascii() or not line.isprintable():
        yield _reason("the kernel's command line is not of printable words", "printable ASCII", line)
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
    for raw in _split(line):
        word = _unquoted(raw)
        if word == _FOR_INIT:
            break
        found.append(_normal(word))
    return found


def _split(line: str) -> Iterator[str]:
    """At blanks outside of double quotes; a quote that is not closed reaches to the end."""
    word, quoted = "", False
    for character in line:
        if character == " " and not quoted:
            if word:
                yield word
            word = ""
        else:
            quoted ^= character == '"'
            word += character
    if word:
        yield word


def _unquoted(word: str) -> str:
    """Without the quotes around the whole word or around its value; others stay, as in the kernel."""
    if word.startswith('"'):
        return word[1:].removesuffix('"')
    name, equals, value = word.partition("=")
    if value.startswith('"'):
        value = value[1:].removesuffix('"')
    return name + equals + value


def _normal(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("-", "_") + equals + value if word != _FOR_INIT else word


def _reason(message: str, expected: str, seen: str) -> Reason:
    return Reason(KERNEL_CMDLINE, message, expected=printable(expected, _SHOWN), seen=printable(seen, _SHOWN))
