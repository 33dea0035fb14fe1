"""Going on from a state must say what judging the whole log says."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.judging import BINDING, NOW, codes, policy_of
from perunml.evidence.baseline import Baseline, Until
from perunml.evidence.ima.appraise import MAX_LAG, appraise_log, resume_log
from perunml.evidence.judge import Judgement, judge, judge_new
from perunml.evidence.rules import ImaRules
from perunml.testing.forge import ForgedTpm, Quoting
from perunml.testing.imalog import boot_aggregate, buffer_line

FILES = {f"/usr/lib/{n}.so": b"%d" % n for n in range(12)}
RULES = ImaRules(
    require=frozenset(["/usr/lib/1.so"]),
    policies=frozenset(["sha256:" + hashlib.sha256(b"policy").hexdigest()]),
    violations=frozenset(["/usr/lib/2.so"]),
    kexec=True,
)
GOOD = st.text("fffffvke", max_size=25)
"""A listed file, an excused violation, kexec's boot_aggregate, the excused path as a file."""
WRONG = st.text("pux", max_size=1)
"""A policy loaded again, an unlisted file, another content."""


def machine(kinds: str, banks: tuple[str, ...], template: str) -> tuple[ForgedTpm, Baseline, list[dict[str, bytes]]]:
    """A machine that saw all of these, its baseline, and PCR 10 by bank after each line."""
    tpm = ForgedTpm(files={}, banks=banks, template=template)
    listed = {path: frozenset(["sha256:" + hashlib.sha256(c).hexdigest()]) for path, c in FILES.items()}
    baseline = replace(tpm.baseline(), files=listed, ima=RULES)
    values = [{bank: held[10] for bank, held in tpm.pcrs.items()}]
    for number, kind in enumerate(kinds):
        path = f"/usr/lib/{number % 12}.so"
        match kind:
            case "v":
                tpm.measure("/usr/lib/2.so", b"", violation=True)
            case "k":
                tpm.log(boot_aggregate(tpm.pcrs[banks[0]], banks[0], template=template))
            case "p":
                tpm.log(buffer_line(b"ima_policy_loaded", b"policy"))
            case "u":
                tpm.measure("/opt/unlisted", b"x")
            case "x":
                tpm.measure(path, b"another content")
            case _:
                tpm.measure("/usr/lib/2.so" if kind == "e" else path, FILES["/usr/lib/2.so" if kind == "e" else path])
        values.append({bank: held[10] for bank, held in tpm.pcrs.items()})
    return tpm, baseline, values


@given(
    kinds=st.builds("pf{}{}{}".format, GOOD, WRONG, GOOD),
    banks=st.sampled_from([("sha256",), ("sha256", "sha384")]),
    template=st.sampled_from(["ima-ng", "ima-sig", "ima-ngv2"]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=120, deadline=None)
def test_resumed_is_whole_for_random_splits(kinds: str, banks: tuple[str, ...], template: str, seed: int) -> None:
    """Whatever is told in whatever parts, with quotes that lag: the same findings and the same state, or the word that only
    the whole can tell, which is never said of a log in which nothing is wrong and whose quote goes on."""
    tpm, baseline, values = machine(kinds, banks, template)
    generator = random.Random(seed)
    allowed = baseline.at(NOW)
    ends = [0]
    for line in tpm.lines:
        ends.append(ends[-1] + len(line.encoded))
    at, state = 0, None
    for _ in range(12):
        before, at = at, generator.randint(max(3, at), min(at + 4, len(tpm.lines)) if at else len(tpm.lines))
        proven = max(2, generator.choice([at, at - 1, before - 1, generator.randint(1, at)]))
        pcrs = {b: {**dict(enumerate(tpm.pcrs[b])), 10: values[proven - 1][b]} for b in banks}
        whole = appraise_log(tpm.ima_log[: ends[at]], ends[before], pcrs, allowed)
        if state is not None:
            resumed = resume_log(tpm.ima_log[ends[before] : ends[at]], state, pcrs, allowed)
            assert resumed == (None if whole.reasons else whole)
        assert (whole.state is None) == bool(whole.reasons)
        if whole.state is None:
            return
        state = whole.state
        assert state.size == ends[at]


def test_i8_a_renewal_that_its_quote_lags_too_far_behind_is_judged_whole() -> None:
    """I8: and refused then."""
    tpm = ForgedTpm()
    baseline = tpm.baseline()
    pcrs = {"sha256": dict(enumerate(tpm.pcrs["sha256"]))}
    state = appraise_log(tpm.ima_log, 0, pcrs, baseline.at(NOW)).state
    assert state is not None
    path, content = next(iter(tpm._files.items()))
    for _ in range(MAX_LAG):
        tpm.measure(path, content)
    assert resume_log(tpm.ima_log[state.size :], state, pcrs, baseline.at(NOW)) is not None
    tpm.measure(path, content)
    assert resume_log(tpm.ima_log[state.size :], state, pcrs, baseline.at(NOW)) is None


def first(tpm: ForgedTpm, baseline: Baseline) -> Judgement:
    made = judge(tpm.bundle(BINDING), machine=tpm.enrolled(), policy=policy_of(baseline), binding=BINDING, now=NOW)
    assert made.state is not None
    return made


def renewed(
    tpm: ForgedTpm, before: Judgement, baseline: Baseline, now: int = NOW, **quoting: object
) -> Judgement | None:
    assert before.state is not None
    how = Quoting(**{"offset": before.state.size, **quoting})  # type: ignore[arg-type]  # the tests' own words
    return judge_new(
        tpm.bundle(BINDING, how),
        machine=tpm.enrolled(before.clock),
        policy=policy_of(baseline),
        binding=BINDING,
        now=now,
        state=before.state,
    )


def test_a_renewal_is_judged_by_its_new_part_alone() -> None:
    """The same verdict as of the whole, and a state to go on from."""
    tpm = ForgedTpm()
    baseline = tpm.baseline()
    before = first(tpm, baseline)
    path, content = next(iter(tpm._files.items()))
    tpm.measure(path, content)
    made = renewed(tpm, before, baseline)
    assert made is not None
    assert codes(made) == []
    assert before.log + made.log == tpm.ima_log
    assert made.start == len(before.log)
    assert made.appraisal.claims["entries_proven"] == len(tpm.lines)
    again = renewed(tpm, made, baseline)
    assert again is not None
    assert again.log == b""


@pytest.mark.parametrize(
    "wrong", ["unlisted", "reboot", "offset", "binding", "rules", "window", "bank", "cut", "older"]
)
def test_what_the_new_part_cannot_tell_is_judged_whole(wrong: str) -> None:
    """Anything refused, another boot, another baseline or window, other banks, another offset: judge it all."""
    tpm = ForgedTpm(banks=("sha256", "sha384"))
    baseline = replace(tpm.baseline(), until=(Until(NOW + 5, {}, {"/opt/old": frozenset(["sha256:" + "0" * 64])}),))
    before = first(tpm, baseline)
    now, how = NOW, {}
    match wrong:
        case "unlisted":
            tpm.measure("/opt/evil", b"x")
        case "reboot":
            tpm.reboot()
        case "offset":
            how = {"offset": 0}
        case "binding":
            how = {"extra_data": bytes(32)}
        case "rules":
            baseline = replace(baseline, ima=ImaRules(kexec=True))
        case "window":
            now = NOW + 5
        case "bank":
            how = {"banks": [("sha256", range(15))]}
        case "cut":
            path, content = next(iter(tpm._files.items()))
            tpm.measure(path, content)
            how = {"log": tpm.ima_log[:-1]}
        case "older":
            tpm.pcrs["sha256"][10] = bytes(31) + b"\1"
    assert renewed(tpm, before, baseline, now, **how) is None


def test_a_refused_log_leaves_no_state() -> None:
    """A refusal ends the lease: nothing goes on from it."""
    tpm = ForgedTpm()
    baseline = tpm.baseline()
    tpm.measure("/opt/evil", b"x")
    made = judge(tpm.bundle(BINDING), machine=tpm.enrolled(), policy=policy_of(baseline), binding=BINDING, now=NOW)
    assert codes(made) == ["not_in_policy"]
    assert made.state is None
