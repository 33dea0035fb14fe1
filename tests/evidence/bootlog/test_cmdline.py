"""Command lines are taken apart as the kernel does it: `next_arg`, case by case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perunml.evidence.bootlog.cmdline import appraise_line, kernel_words
from perunml.evidence.rules import BootRules


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  a   b ", ["a", "b"]),
        ("a=b c", ["a=b", "c"]),
        ('"a=b c" d', ["a=b c", "d"]),
        ('a="b c" d', ["a=b c", "d"]),
        ('"a" b', ["a", "b"]),
        ('a="b', ["a=b"]),
        ('"a=b', ["a=b"]),
        ('a="b c', ["a=b c"]),
        ('"a="b""', ['a=b"']),
        ('a"b c"d', ['a"b c"d']),
        ("a-b=c-d", ["a_b=c-d"]),
        ("a-b", ["a_b"]),
        ("a -- b", ["a"]),
        ('a "--" b', ["a"]),
        ("a ---", ["a", "___"]),
        ("=a", ["=a"]),
        ("==a", ["==a"]),
        ('a=""', ["a="]),
        ("a=b=c", ["a=b=c"]),
        ('"', [""]),
    ],
)
def test_words_are_the_kernels(line: str, words: list[str]) -> None:
    """E16: quotes, dashes, what is init's."""
    assert kernel_words(line) == words


@given(st.text(alphabet='ab="- ', max_size=40))
def test_any_line_is_taken_apart(line: str) -> None:
    """Total, and nothing is lost but quotes, dashes and what is init's."""
    words = kernel_words(line)
    assert sum(map(len, words)) <= len(line)
    if '"' not in line and "-" not in line:
        assert words == line.split()


@given(st.text(alphabet='ab="- ', max_size=40))
def test_e16_a_forbidden_word_is_found_however_it_is_quoted(before: str) -> None:
    """E16: after anything that closes its quotes and is not init's."""
    rules = BootRules(no_cmdline=frozenset({"ima_appraise="}))
    begun = before.count('"') % 2 == 0 and "--" not in before
    for word in ("ima_appraise=off", '"ima-appraise=off"', 'ima-appraise="off"'):
        if begun:
            assert list(appraise_line(f"{before} {word}", rules))
