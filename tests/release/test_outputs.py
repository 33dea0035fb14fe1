"""What comes out leaves only as agreed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agreements.sample import document, edit, key, receiving, sha
from perunml.agreements.document import agreement_from_json
from perunml.release.outputs import check_output_approval, decide_output, output_approval
from perunml.release.types import OutputRelease, Refusal, RegisteredOutput, State
from perunml.wire.dsse import Envelope, unsigned
from perunml.wire.errors import PerunError
from release.world import AGREEMENT, IN_FORCE, NOW

MODEL = RegisteredOutput("00" * 16, "train", "model", sha("7"))
METRICS = replace(MODEL, name="metrics", asset=sha("8"))


def approve(*who: str, output: RegisteredOutput = MODEL, party: str = "st-vitus", **changed: str) -> Envelope:
    made = unsigned("OutputApproval", output_approval(AGREEMENT, output, party) | changed)
    for name in who:
        made = made.with_signature(key(name).public, key(name).sign(made.signing_bytes()))
    return made


BOARD = approve("st-vitus/dpo", "st-vitus/dr-a")


def decided(**changed: Any) -> OutputRelease | Refusal:
    values: dict[str, Any] = {
        "state": IN_FORCE,
        "output": MODEL,
        "recipient": "acme",
        "approvals": [BOARD],
        "now": NOW,
    }
    return decide_output(AGREEMENT, **(values | changed))


def codes(**changed: Any) -> list[str]:
    found = decided(**changed)
    assert isinstance(found, Refusal), found
    return [reason.code for reason in found.reasons]


def test_an_approved_output_goes_to_the_recipients_key() -> None:
    """And to no other key than the one that the agreement names."""
    found = decided()
    assert isinstance(found, OutputRelease)
    assert found.receive == receiving("acme").public.text


def test_an_output_without_a_release_rule_leaves_at_once() -> None:
    """Metrics wait for nobody, and go to both."""
    for party in ("acme", "st-vitus"):
        assert isinstance(decided(output=METRICS, recipient=party, approvals=[]), OutputRelease)


def test_an_unapproved_output_is_held() -> None:
    """P3: no approval, or half a board, holds it; the reason says who is missing."""
    assert codes(approvals=[]) == ["output_held"]
    found = decided(approvals=[approve("st-vitus/dr-a")])
    assert isinstance(found, Refusal)
    assert (found.reasons[0].code, found.reasons[0].expected) == ("output_held", "dpo")
    assert isinstance(decided(approvals=[approve("st-vitus/dr-a"), approve("st-vitus/dpo")]), OutputRelease)


@pytest.mark.parametrize(
    "envelope",
    [
        approve("st-vitus/dpo", "st-vitus/dr-a", output=replace(MODEL, run="11" * 16)),
        approve("st-vitus/dpo", "st-vitus/dr-a", output=replace(MODEL, asset=sha("0"))),
        approve("st-vitus/dpo", "st-vitus/dr-a", output=METRICS),
        approve("st-vitus/dpo", "st-vitus/dr-a", agreement=sha("0")),
        approve("st-vitus/dpo", "st-vitus/dr-a", manager="ed25519:AAAA"),
        approve("st-vitus/dpo", "st-vitus/dr-a", extra="x"),
        approve("acme/ml"),
        approve("acme/ml", party="acme"),
        approve("acme/ml", party="nobody"),
        approve(),
    ],
    ids=["run", "asset", "output", "agreement", "manager", "field", "key", "party", "stranger", "unsigned"],
)
def test_an_approval_of_something_else_does_not_let_it_out(envelope: Envelope) -> None:
    """P5: another run's, another output's, another agreement's, another party's."""
    assert codes(approvals=[envelope]) == ["output_held"]
    if envelope.unverified("OutputApproval")["party"] != "acme":
        with pytest.raises(PerunError):
            check_output_approval(AGREEMENT, envelope, MODEL)


def test_a_forged_approval_does_not_let_it_out() -> None:
    """A signature of nobody is no vote, and spoils nobody else's."""
    forged = Envelope(BOARD.payload_type, BOARD.payload, tuple((k, bytes(64)) for k, _ in BOARD.signatures))
    assert codes(approvals=[forged]) == ["output_held"]
    assert isinstance(decided(approvals=[forged, BOARD]), OutputRelease)


def test_the_wrong_recipient_gets_nothing() -> None:
    """Neither a party that the output does not go to, nor one that is not there, approvals or not."""
    for recipient in ("st-vitus", "clinic", "nobody", ""):
        assert codes(recipient=recipient) == ["recipient_not_agreed"]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"state": State(False, {"acme": "ml"}, frozenset(), True)}, "agreement_not_in_force"),
        ({"state": State(True, {}, frozenset(), False)}, "witness_quorum_missing"),
        ({"state": State(True, {}, frozenset({"scans"}), True)}, "asset_suspended"),
        ({"state": State(True, {}, frozenset({"unet"}), True)}, "asset_suspended"),
        ({"now": AGREEMENT.ends}, "agreement_expired"),
        ({"output": replace(MODEL, name="weights")}, "output_unknown"),
        ({"output": replace(MODEL, job="serve")}, "output_unknown"),
        ({"output": replace(MODEL, job="steal")}, "output_unknown"),
    ],
    ids=str,
)
def test_each_rule_of_an_output_broken_once(changed: dict[str, Any], code: str) -> None:
    """That rule's code and no other."""
    assert codes(**changed) == [code]


def test_everything_wrong_with_an_output_is_told_at_once() -> None:
    """All of it."""
    found = codes(state=State(False, {}, frozenset({"scans"})), recipient="clinic", approvals=[], now=AGREEMENT.ends)
    assert found == [
        "agreement_not_in_force",
        "witness_quorum_missing",
        "agreement_expired",
        "asset_suspended",
        "recipient_not_agreed",
        "output_held",
    ]


def test_an_output_leaves_after_the_training_has_ended() -> None:
    """The training's `until` ends runs, not the model: until the whole agreement is over it may be pulled."""
    assert isinstance(decided(now=AGREEMENT.jobs["train"].limits.until + 1), OutputRelease)


def test_a_log_that_was_narrowed_away_stays() -> None:
    """The newest version says `error-class`, so what was printed under the one before leaves no more; under `full` it leaves."""
    log = replace(MODEL, name="logs", asset=sha("9"))
    for level, leaves in (("full", True), ("error-class", False)):
        made = agreement_from_json(edit(document(), "jobs/train/outputs/logs", {"to": "acme", "level": level}))
        found = decide_output(made, state=IN_FORCE, output=log, recipient="acme", approvals=[], now=NOW)
        assert isinstance(found, OutputRelease) is leaves
        assert leaves or [reason.code for reason in found.reasons] == ["output_unknown"]  # type: ignore[union-attr]  # a refusal


def test_every_approver_is_waited_for() -> None:
    """Two approvers, one approval: held, and only the other one is named."""
    made = agreement_from_json(edit(document(), "jobs/train/outputs/model/release/approve", ["st-vitus", "gpu-cloud"]))
    body = output_approval(made, MODEL, "gpu-cloud")
    envelope = unsigned("OutputApproval", body)
    signer = key("gpu-cloud/ops")
    envelope = envelope.with_signature(signer.public, signer.sign(envelope.signing_bytes()))
    found = decide_output(made, state=IN_FORCE, output=MODEL, recipient="acme", approvals=[envelope], now=NOW)
    assert isinstance(found, Refusal)
    assert [reason.message for reason in found.reasons] == [f"model of run {MODEL.run} waits for st-vitus"]
