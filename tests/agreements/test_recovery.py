"""Shares of outputs' keys, byte by byte; and the quorum that an agreement may ask for (P10)."""

from __future__ import annotations

from typing import Any

import pytest

from agreements.sample import document, key, receiving, sha
from perunml.agreements.diff import Effect, diff
from perunml.agreements.document import agreement_from_json
from perunml.agreements.recovery import (
    GIVEN,
    KIND,
    MAX_SEALED,
    Holder,
    OutputShares,
    given,
    holders,
    open_given,
    open_shares,
    threshold,
)
from perunml.agreements.review import review
from perunml.agreements.schema import Agreement
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import PerunError

LOST, RUN = key("lost-manager"), "ab" * 16


def agreed(**recovery: Any) -> Agreement:
    made = document()
    made["parties"]["st-vitus"]["receive"] = receiving("st-vitus").public.text
    made["parties"]["acme"]["receive"] = receiving("acme").public.text
    return agreement_from_json({**made, "recovery": recovery} if recovery else made)


def bare() -> dict[str, Any]:
    """An owner that has no receiving key."""
    made = document()
    made["jobs"]["train"]["outputs"]["metrics"]["to"] = "acme"
    del made["parties"]["st-vitus"]["receive"]
    return made


def refused(**recovery: Any) -> str:
    with pytest.raises(PerunError) as caught:
        agreed(**recovery)
    return f"{caught.value.code}: {caught.value.reasons[0].message}"


def shares(**changes: Any) -> OutputShares:
    held = {"acme": Holder(1, sha("1"), b"sealed"), "st-vitus": Holder(2, sha("2"), b"sealed")}
    values: dict[str, Any] = {
        "manager": LOST.public.text, "agreement": sha("d"), "run": RUN, "job": "train", "output": "model", "asset": sha("a"),
        "signer": key("session").public.text, "epoch": 1, "entry": 9, "at_least": 2, "check": sha("c"), "holders": held,
    }  # fmt: skip
    return OutputShares(**{**values, **changes})


def test_p10_no_quorum_that_nobody_or_one_alone_could_meet() -> None:
    """P10: more than there are owners, one of several, none; a manager that is its own; a party that could not be given its share."""
    assert "can never be met" in refused(at_least=3)
    assert "alone" in refused(at_least=1)
    assert "malformed" in refused(at_least=0)
    assert "own manager" in refused(managers=[key("manager").public.text])
    assert "twice" in refused(managers=[LOST.public.text] * 2)
    assert "left out" in refused(at_least=None)
    with pytest.raises(PerunError, match="no receiving key to be given its share"):
        agreement_from_json({**bare(), "recovery": {"at_least": 2}})


def test_p10_whoever_loosens_or_drops_the_quorum_asks_everybody() -> None:
    """P10: it is no field that narrows."""
    before, after = agreed(at_least=2), agreed()
    changes = [change for change in diff(before, after) if change.path == "recovery"]
    assert [change.effect for change in changes] == [Effect.WIDENS]
    assert changes[0].parties == frozenset(before.parties)
    assert "2 of the owners" in changes[0].sentence


def test_owners_hold_the_shares_and_a_review_says_so() -> None:
    """All of them unless told; nobody where one has no receiving key."""
    assert holders(agreed(), "train", "model") == ("acme", "st-vitus")
    assert (threshold(agreed(), 2), threshold(agreed(at_least=2), 3), threshold(agreed(at_least=2), 1)) == (2, 2, 1)
    said = "\n".join(line for section in review(agreed(), "acme") for line in section.sentences)
    assert "You hold a share of the key of each train.outputs.model: 2 of acme, st-vitus" in said
    assert holders(agreement_from_json(bare()), "train", "model") == ()
    said = "\n".join(line for section in review(agreement_from_json(bare()), "acme") for line in section.sentences)
    assert "Nobody holds shares of train.outputs.model" in said
    named = agreed(managers=[LOST.public.text])
    assert LOST.public.text in "\n".join(line for section in review(named, "acme") for line in section.sentences)


def test_a_document_of_shares_is_of_one_form() -> None:
    """Each member missing, of another type, out of range; more of them; another signer."""
    body = shares().body()

    def code(changed: dict[str, Any], by: Any = LOST) -> str:
        with pytest.raises(PerunError) as caught:
            open_shares(signed(KIND, changed, by), [LOST.public.text])
        return caught.value.code

    assert open_shares(signed(KIND, body, LOST), [LOST.public.text]).body() == body
    for name in body:
        assert code({other: value for other, value in body.items() if other != name}) == "malformed"
        assert code({**body, name: [7]}) == "malformed"
    for name, value in {
        "epoch": 0, "entry": -1, "at_least": 3, "run": "ab", "asset": "sha256:0", "signer": "ed25519:", "check": "x",
    }.items():  # fmt: skip
        assert code({**body, name: value}) == "malformed"
    assert code({**body, "epoch": True}) == "malformed"
    assert code({**body, "at_least": 0}) == "malformed"
    assert code({**body, "more": 1}) == "malformed"
    twice = {party: {**holder, "number": 1} for party, holder in body["holders"].items()}
    assert code({**body, "holders": twice}) == "malformed"
    long = shares(holders={"acme": Holder(1, sha("1"), bytes(MAX_SEALED + 1))}, at_least=1).body()
    assert code(long) == "malformed"
    assert code(body, key("manager")) == "bad_signature"
    two = [LOST.public.text, key("manager").public.text]
    with pytest.raises(PerunError, match="bad_signature"):
        open_shares(signed(KIND, body, key("manager")), two)  # one lost manager speaks for itself alone


def test_a_share_is_given_by_the_whole_board_for_one_agreement() -> None:
    """S6: half a board, another board, another agreement or manager; each member broken."""
    agreement = agreed(managers=[LOST.public.text])
    body = given(agreement, "st-vitus", shares(digest=sha("f")), b"sealed")

    def by(changed: dict[str, Any], *seats: str) -> Envelope:
        made = signed(GIVEN, changed, key(f"st-vitus/{seats[0]}"))
        for seat in seats[1:]:
            signer = key(f"st-vitus/{seat}")
            made = made.with_signature(signer.public, signer.sign(made.signing_bytes()))
        return made

    def code(envelope: Envelope) -> str:
        with pytest.raises(PerunError) as caught:
            open_given(agreement, envelope)
        return caught.value.code

    assert open_given(agreement, by(body, "dpo", "dr-a")).party == "st-vitus"
    assert code(by(body, "dpo")) == "not_on_board"
    assert code(by(body, "dr-a", "dr-b")) == "not_on_board"
    assert code(signed(GIVEN, body, key("acme/ml"))) == "bad_signature"
    for name in body:
        assert code(by({o: v for o, v in body.items() if o != name}, "dpo", "dr-a")) == "malformed"
        assert code(by({**body, name: 7}, "dpo", "dr-a")) == "malformed"
    assert code(by({**body, "agreement": sha("9")}, "dpo", "dr-a")) == "share_mismatch"
    assert code(by({**body, "manager": LOST.public.text}, "dpo", "dr-a")) == "share_mismatch"
    assert code(by({**body, "party": "nobody"}, "dpo", "dr-a")) == "share_mismatch"
    assert code(by({**body, "asset": "model"}, "dpo", "dr-a")) == "malformed"
    assert code(by({**body, "sealed": "="}, "dpo", "dr-a")) == "malformed"
