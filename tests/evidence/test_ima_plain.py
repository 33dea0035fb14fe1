"""The short way for plainly listed files must say what the long way says; and logs that are all wrong must be cheap."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest

from evidence.judging import NOW
from perunml.evidence.baseline import Allowed
from perunml.evidence.ima.appraise import LogFindings, appraise_log
from perunml.evidence.ima.lines import MAX_REASONS, MAX_REFUSED, LineJudge
from perunml.evidence.rules import ImaRules
from perunml.testing.forge import ForgedTpm
from perunml.testing.imalog import ima_line

TEMPLATES = ["ima-ng", "ima-sig", "ima-ngv2", "ima-sigv2"]


def long_way(allowed: Allowed) -> Allowed:
    """The same, but no line is plain."""
    other = replace(allowed)
    other.__dict__["plain"] = frozenset()
    return other


def machine(template: str) -> tuple[ForgedTpm, Allowed]:
    files = {f"/usr/lib/{n}.so": b"%d" % n for n in range(6)}
    tpm = ForgedTpm(files=files, template=template)
    if "sig" in template:
        for path, content in files.items():
            tpm.measure(path, content, more=[b"\3\2\4sig"])
    tpm.measure("/usr/lib/1.so", b"", violation=True)
    rules = ImaRules(require=frozenset(["/usr/lib/2.so"]), violations=frozenset(["/usr/lib/1.so"]))
    return tpm, replace(tpm.baseline(), ima=rules).at(NOW)


def both(log: bytes, tpm: ForgedTpm, allowed: Allowed) -> LogFindings:
    pcrs = {"sha256": dict(enumerate(tpm.pcrs["sha256"]))}
    short = appraise_log(log, 0, pcrs, allowed)
    assert short == appraise_log(log, 0, pcrs, long_way(allowed))
    return short


@pytest.mark.parametrize("template", TEMPLATES)
def test_plain_lines_are_judged_as_others_are(template: str) -> None:
    """Honest logs, with signatures and without: accepted both ways, and only lines that the rules name go the long way."""
    tpm, allowed = machine(template)
    assert both(tpm.ima_log, tpm, allowed).reasons == ()
    seen: list[bytes] = []
    see = LineJudge.see
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LineJudge, "see", lambda self, number, line: (seen.append(line[4]), see(self, number, line)))
        appraise_log(tpm.ima_log, 0, {"sha256": dict(enumerate(tpm.pcrs["sha256"]))}, allowed)
    assert set(seen) == {b"boot_aggregate", b"/usr/lib/2.so", b"/usr/lib/1.so"}
    assert seen.count(b"/usr/lib/1.so") == 1


@pytest.mark.parametrize("template", TEMPLATES)
def test_wrong_logs_are_refused_alike_both_ways(template: str) -> None:
    """Flipped bits, cuts, doubled and swapped pieces, other templates' names."""
    tpm, allowed = machine(template)
    generator, log = random.Random(template), tpm.ima_log
    last = len(log) - len(tpm.lines[-1].encoded)
    for number in range(400):
        changed = bytearray(log)
        place = generator.randrange(len(log))
        match number % 5:
            case 0:
                del changed[place:]
            case 1:
                changed[place:place] = changed[place : place + generator.randrange(60)]
            case 2:
                changed = bytearray(log.replace(template.encode(), generator.choice(TEMPLATES).encode()))
            case _:
                changed[place] ^= 1 << generator.randrange(8)
        found = both(bytes(changed), tpm, allowed)
        # no digest covers a template's name, nor anything of a violation's line, which is the last
        assert found.reasons or bytes(changed[:last]) == log[:last] or number % 5 == 2


def test_i24_a_log_that_is_all_wrong_is_not_read_to_its_end() -> None:
    """I24: after so many refused lines nothing more can be learned."""
    digest = hashlib.sha256(b"").digest()
    log = b"".join(ima_line(b"/%d" % n, digest).encoded for n in range(MAX_REFUSED + 2 * MAX_REASONS))
    found = appraise_log(log, 0, {"sha256": {10: b"\1" * 32}}, Allowed({}, {}))
    assert len(found.reasons) == MAX_REASONS + 1
    assert found.reasons[-1].message.endswith("what follows was not looked at")
    assert (found.proven, found.state) == (0, None)
    assert found.lines == MAX_REFUSED + MAX_REASONS + 1


def test_signatures_are_not_checked_where_lines_are_refused_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    """D5: a log of junk signatures costs some checks, not thousands; and one that is doubled costs none."""
    checked: list[bytes] = []

    def verified_by(signature: bytes, *_: object) -> bytes | None:
        checked.append(signature)
        return b"key" if signature == b"good" else None

    monkeypatch.setattr("perunml.evidence.ima.lines.verified_by", verified_by)
    digest = hashlib.sha256(b"").digest()
    tpm = ForgedTpm(template="ima-sig", files={})
    for _ in range(3):
        tpm.log(ima_line(b"/good", digest, template="ima-sig", more=[b"good"]))
    for number in range(100):
        tpm.log(ima_line(b"/bad", digest, template="ima-sig", more=[b"%d" % number]))
    allowed = replace(tpm.baseline().at(NOW), ima=ImaRules(keys=frozenset(["sha256:" + "0" * 64])))
    found = appraise_log(tpm.ima_log, 0, {"sha256": dict(enumerate(tpm.pcrs["sha256"]))}, allowed)
    assert {reason.code for reason in found.reasons} == {"ima_signature"}
    assert len(checked) == 1 + MAX_REASONS + 1
