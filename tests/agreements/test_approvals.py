"""Approvals: what counts, what does not, and what replaces what."""

from __future__ import annotations

from typing import Any

import pytest

from agreements.sample import NAMES, document, edit, key, sha
from perunml.agreements.approvals import approval, check_approval, check_successor, standing
from perunml.agreements.document import agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.wire.dsse import Envelope, signed, unsigned
from perunml.wire.errors import PerunError
from perunml.wire.timestamps import format_time

NOW = 1_800_000_000
AGREEMENT = agreement_from_json(document())
ENOUGH = ("st-vitus/dpo", "st-vitus/dr-b", "acme/ml", "gpu-cloud/ops", "clinic/desk")


def approve(who: str, agreement: Agreement = AGREEMENT, /, *, party: str = "", **changed: str) -> Envelope:
    body = approval(agreement, party or who.split("/")[0], agreement.ends) | changed
    return signed("Approval", body, key(who))


def successor(agreement: Agreement = AGREEMENT) -> dict[str, Any]:
    return edit(
        edit(document(), "metadata/version", agreement.metadata.version + 1), "metadata/predecessor", agreement.digest
    )


def refused(envelope: Envelope, now: int = NOW) -> str:
    with pytest.raises(PerunError) as caught:
        check_approval(AGREEMENT, envelope, now)
    return caught.value.code


def test_in_force_with_the_last_signature() -> None:
    """P3: with all but one it is pending and says who is missing; with that one it is in force."""
    envelopes = [approve(who) for who in ENOUGH]
    assert standing(AGREEMENT, envelopes, NOW).in_force
    for left_out in range(len(envelopes)):
        found = standing(AGREEMENT, envelopes[:left_out] + envelopes[left_out + 1 :], NOW)
        party = ENOUGH[left_out].split("/")[0]
        assert not found.in_force
        assert set(found.missing) == {party}
        assert found.approved == set(AGREEMENT.parties) - {party}
    assert standing(AGREEMENT, [], NOW).missing["st-vitus"] == "dpo and (1 of dr-a, dr-b)"


def test_keys_of_one_board_may_sign_together() -> None:
    """One document with two signatures is two votes."""
    body = approval(AGREEMENT, "st-vitus", AGREEMENT.ends)
    together = unsigned("Approval", body)
    for who in ("st-vitus/dpo", "st-vitus/dr-a"):
        together = together.with_signature(key(who).public, key(who).sign(together.signing_bytes()))
    found = standing(AGREEMENT, [together], NOW)
    assert "st-vitus" in found.approved


def test_the_same_key_twice_is_counted_once() -> None:
    """P4: two approvals of one key do not make up a board of two."""
    late = approve("st-vitus/dr-a", expires=format_time(NOW + 5))
    found = standing(AGREEMENT, [approve("st-vitus/dr-a"), late, approve("st-vitus/dr-b")], NOW)
    assert found.missing["st-vitus"] == "dpo"


@pytest.mark.parametrize(
    "changed",
    [
        {"agreement": sha("0")},
        {"manager": "ed25519:AAAA"},
        {"predecessor": sha("0")},
    ],
    ids=lambda c: next(iter(c)),
)
def test_an_approval_of_something_else_counts_for_nothing(changed: dict[str, str]) -> None:
    """P5, P8: another digest, another manager, another place in history."""
    assert refused(approve("acme/ml", **changed)) == "approval_mismatch"
    found = standing(AGREEMENT, [approve("acme/ml", **changed)], NOW)
    assert found.approved == frozenset()
    assert [reason.code for reason in found.ignored] == ["approval_mismatch"]


def test_votes_are_void_when_the_proposal_changes() -> None:
    """P8: one changed letter is another digest, and nobody has approved that."""
    changed = agreement_from_json(edit(document(), "jobs/train/limits/runs", 4))
    found = standing(changed, [approve(who) for who in ENOUGH], NOW)
    assert found.approved == frozenset()


def test_a_party_does_not_approve_for_another() -> None:
    """Acme's key under st-vitus's name is no signature of st-vitus."""
    assert refused(approve("acme/ml", party="st-vitus")) == "bad_signature"
    assert refused(approve("acme/ml", party="nobody")) == "approval_mismatch"


def test_an_altered_approval_is_refused() -> None:
    """A signature that does not verify is no vote."""
    good = approve("acme/ml")
    bad = Envelope(good.payload_type, good.payload, ((good.signatures[0][0], bytes(64)),))
    assert refused(bad) == "bad_signature"


def test_another_document_is_no_approval() -> None:
    """P5: neither another kind, nor fields more or fewer."""
    body = approval(AGREEMENT, "acme", AGREEMENT.ends)
    assert refused(signed("Suspension", body, key("acme/ml"))) == "wrong_payload_type"
    assert refused(signed("Approval", body | {"more": ""}, key("acme/ml"))) == "malformed"
    assert refused(signed("Approval", {k: v for k, v in body.items() if k != "expires"}, key("acme/ml"))) == "malformed"
    assert refused(signed("Approval", body | {"party": ["acme"]}, key("acme/ml"))) == "malformed"
    assert refused(signed("Approval", body | {"expires": 5}, key("acme/ml"))) == "malformed"
    assert refused(signed("Approval", body | {"expires": "soon"}, key("acme/ml"))) == "malformed"


def test_an_expired_approval_counts_no_more() -> None:
    """P12: at its end, not a second later."""
    envelope = approve("acme/ml", expires=format_time(NOW))
    assert refused(envelope, NOW) == "approval_expired"
    assert check_approval(AGREEMENT, envelope, NOW - 1).party == "acme"
    rest = [approve(who) for who in ENOUGH if who != "acme/ml"]
    assert standing(AGREEMENT, [*rest, envelope], NOW - 1).in_force
    assert set(standing(AGREEMENT, [*rest, envelope], NOW).missing) == {"acme"}


def test_a_key_that_is_not_on_the_board_does_not_decide() -> None:
    """P7: a key that a version took off the board has no vote there."""
    made = agreement_from_json(edit(document(), "parties/st-vitus/approve", {"all": ["dpo", "dr-a"]}))
    with pytest.raises(PerunError, match="not_on_board"):
        check_approval(made, approve("st-vitus/dr-b", made), NOW)


def test_a_removed_members_vote_is_void() -> None:
    """P7: a key that is no longer in the agreement signs for nobody, except on the board before."""
    fresh = edit(successor(), "parties/st-vitus/approve", "dpo")
    del fresh["parties"]["st-vitus"]["keys"]["dr-b"]
    made = agreement_from_json(fresh)
    votes = [approve(who, made) for who in ENOUGH]
    assert standing(made, votes, NOW, predecessor=AGREEMENT).in_force
    without_dpo = [v for who, v in zip(ENOUGH, votes, strict=True) if who != "st-vitus/dpo"]
    assert set(standing(made, without_dpo, NOW, predecessor=AGREEMENT).missing) == {"st-vitus"}


def test_a_change_of_a_board_needs_the_old_board() -> None:
    """A version that gives st-vitus another board is not in force by the new board alone."""
    made = agreement_from_json(edit(successor(), "parties/st-vitus/approve", "dr-a"))
    votes = [approve(who, made) for who in ("st-vitus/dr-a", "acme/ml", "gpu-cloud/ops", "clinic/desk")]
    found = standing(made, votes, NOW, predecessor=AGREEMENT)
    assert found.missing == {"st-vitus": "the board of the version before: dpo"}
    assert standing(made, [*votes, approve("st-vitus/dpo", made)], NOW, predecessor=AGREEMENT).in_force


def test_a_party_is_not_dropped_without_its_consent() -> None:
    """A version without the clinic needs the clinic."""
    fresh = successor()
    del fresh["parties"]["clinic"]
    fresh["jobs"]["serve"]["clients"] = ["acme"]
    made = agreement_from_json(fresh)
    votes = [approve(who, made) for who in ENOUGH if who != "clinic/desk"]
    assert set(standing(made, votes, NOW, predecessor=AGREEMENT).missing) == {"clinic"}
    assert standing(made, [*votes, approve("clinic/desk", made)], NOW, predecessor=AGREEMENT).in_force


def test_a_version_is_not_judged_without_the_one_before() -> None:
    """Missing is not empty: no predecessor at hand, or one too many, is refused."""
    made = agreement_from_json(successor())
    for agreement, predecessor in ((made, None), (AGREEMENT, AGREEMENT), (made, made)):
        with pytest.raises(PerunError, match="version_rollback"):
            standing(agreement, [], NOW, predecessor=predecessor)
        with pytest.raises(PerunError, match="version_rollback"):
            check_approval(agreement, approve("acme/ml", agreement), NOW, predecessor=predecessor)


def test_an_older_version_does_not_come_back() -> None:
    """P6, P11: only the version right after the newest follows it; of two that do, the second finds the first there."""
    second = agreement_from_json(successor())
    check_successor(second, AGREEMENT)
    rival = agreement_from_json(edit(successor(), "jobs/train/limits/runs", 4))
    third = agreement_from_json(successor(second))
    other_name = agreement_from_json(edit(successor(), "metadata/name", "other"))
    other_manager = agreement_from_json(edit(successor(), "manager/key", key("rogue").public.text))
    for fresh, newest in (
        (AGREEMENT, second),
        (AGREEMENT, AGREEMENT),
        (second, second),
        (rival, second),
        (third, AGREEMENT),
        (other_name, AGREEMENT),
        (other_manager, AGREEMENT),
    ):
        with pytest.raises(PerunError, match="version_rollback"):
            check_successor(fresh, newest)


def test_every_key_of_the_sample_is_used() -> None:
    """The sample's keys and names stay in step."""
    assert {f"{p}/{k}" for p, party in AGREEMENT.parties.items() for k in party.keys} == set(NAMES) - {"manager"}
