"""The compiled form of a baseline: the same baseline, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.judging import BINDING, NOW, codes, judged
from perunml.evidence.baseline import Baseline, Until
from perunml.evidence.compiled import compile_baseline, load_compiled
from perunml.evidence.rules import BootRules, ImaRules
from perunml.testing.forge import ForgedTpm
from perunml.wire.errors import UsageError

HEX = st.binary(min_size=32, max_size=32).map(lambda raw: "sha256:" + raw.hex())
LONG = st.binary(min_size=64, max_size=64).map(lambda raw: "sha512:" + raw.hex())
PATHS = st.one_of(
    st.sampled_from(["/init", "/etc/ima/ima-policy", "boot_aggregate", "/x/init"]), st.text(min_size=1, max_size=9)
)
FILES = st.dictionaries(
    PATHS.filter(lambda path: "\0" not in path), st.frozensets(st.one_of(HEX, LONG), min_size=1, max_size=3), max_size=6
)


@st.composite
def baselines(draw: st.DrawFn) -> Baseline:
    """With rules that single out some of the files, and up to two windows."""
    files = draw(FILES)
    digests = sorted({digest for some in files.values() for digest in some})
    policies = frozenset(draw(st.lists(st.sampled_from(digests), max_size=2))) if digests else frozenset[str]()
    require = frozenset(draw(st.lists(st.sampled_from(["/init", "/none"]), max_size=2)))
    windows = tuple(
        Until(end, {}, draw(FILES)) for end in draw(st.lists(st.sampled_from([NOW - 1, NOW + 1]), max_size=2))
    )
    return Baseline(
        {"sha256": {0: bytes(32)}},
        files,
        BootRules(secure_boot=True) if draw(st.booleans()) else None,
        ImaRules(require=require, policies=policies),
        until=windows,
    )


@given(baselines())
@settings(max_examples=150, deadline=None)
def test_it_loads_as_the_same_baseline(baseline: Baseline) -> None:
    """Equal, of the same digest, allowing the same at every time, with the same short way for a log's lines."""
    loaded = load_compiled(compile_baseline(baseline), baseline.digest)
    assert loaded == baseline
    assert loaded.digest == baseline.digest
    assert loaded.as_json() == baseline.as_json()
    for now in (NOW - 2, NOW, NOW + 2):
        ours, theirs = loaded.at(now), baseline.at(now)
        assert (ours.pcrs, dict(ours.files), ours.ima, ours.state) == (
            theirs.pcrs,
            dict(theirs.files),
            theirs.ima,
            theirs.state,
        )
        # a row that only ends like a special one may be left to the slower way, never the other way round
        assert ours.plain <= theirs.plain
        assert all(
            row.endswith(b"init\0") or b"policy" in row or b"aggregate" in row for row in theirs.plain - ours.plain
        )


def test_a_machine_is_judged_by_it_as_by_the_document() -> None:
    """Accepted where the document accepts; an unlisted file is refused by name."""
    tpm = ForgedTpm()
    loaded = load_compiled(compile_baseline(tpm.baseline()), tpm.baseline().digest)
    assert codes(judged(tpm, tpm.bundle(BINDING), loaded)) == []
    tpm.measure("/opt/evil", b"evil")
    assert codes(judged(tpm, tpm.bundle(BINDING), loaded)) == ["not_in_policy"]


def test_another_documents_form_is_refused() -> None:
    """By the digest in its head."""
    one = ForgedTpm().baseline()
    other = replace(one, files={})
    with pytest.raises(UsageError, match="malformed"):
        load_compiled(compile_baseline(one), other.digest)


def test_a_damaged_form_is_refused() -> None:
    """Every truncation, and bytes after the last row."""
    baseline = ForgedTpm().baseline()
    whole = compile_baseline(baseline)
    for size in range(len(whole)):
        with pytest.raises(UsageError, match="malformed"):
            load_compiled(whole[:size], baseline.digest)
    with pytest.raises(UsageError, match="malformed"):
        load_compiled(whole + b"\0", baseline.digest)
