"""Suspensions: who may, and in what order."""

from __future__ import annotations

import pytest

from agreements.sample import document, key, sha
from perunml.agreements.changes import NEVER_CHANGED, Change, fold, open_change, suspension
from perunml.agreements.document import agreement_from_json
from perunml.wire.dsse import Envelope, signed, unsigned
from perunml.wire.errors import PerunError

AGREEMENT = agreement_from_json(document())


def change(act: str, before: str, *who: str, asset: str = "scans", **changed: str) -> Envelope:
    made = unsigned("Suspension", suspension(AGREEMENT, asset, act, before) | changed)
    for name in who:
        made = made.with_signature(key(name).public, key(name).sign(made.signing_bytes()))
    return made


def opened(*args: str, **changed: str) -> Change:
    return open_change(AGREEMENT, change(*args, **changed))


def refused(envelope: Envelope) -> str:
    with pytest.raises(PerunError) as caught:
        open_change(AGREEMENT, envelope)
    return caught.value.code


def test_one_key_suspends_and_the_board_lifts() -> None:
    """Stopping is easy, starting again takes everybody whom the board names."""
    stop = opened("suspend", "", "st-vitus/dr-a")
    state = fold([stop])
    assert (state.suspended, state.head) == (True, stop.digest)
    go = opened("lift", stop.digest, "st-vitus/dpo", "st-vitus/dr-b")
    assert not fold([stop, go]).suspended
    assert fold([go], fold([stop])) == fold([stop, go])
    assert fold([]) == NEVER_CHANGED


def test_half_a_board_does_not_lift() -> None:
    """P3: k-1 signatures are not enough."""
    for who in (("st-vitus/dr-a",), ("st-vitus/dpo",), ("st-vitus/dr-a", "st-vitus/dr-b")):
        assert refused(change("lift", sha("0"), *who)) == "not_on_board"


def test_only_the_owner_suspends() -> None:
    """P1: neither another party's key, nor another party's name, nor a stranger."""
    assert refused(change("suspend", "", "acme/ml")) == "bad_signature"
    assert refused(change("suspend", "", "acme/ml", party="acme")) == "not_on_board"
    assert refused(change("suspend", "", "stranger")) == "bad_signature"
    assert refused(change("suspend", "")) == "bad_signature"


@pytest.mark.parametrize(
    "changed", [{"manager": "ed25519:AAAA"}, {"action": "stop"}, {"more": "x"}], ids=["manager", "action", "field"]
)
def test_a_change_for_elsewhere_is_refused(changed: dict[str, str]) -> None:
    """Another manager's, another action, another field."""
    assert refused(change("suspend", "", "st-vitus/dr-a", **changed)) == "malformed"


def test_a_change_of_another_asset_is_refused() -> None:
    """A digest that the agreement does not name belongs to nobody here."""
    assert refused(change("suspend", "", "st-vitus/dr-a", subject=sha("9"))) == "not_on_board"


def test_a_change_is_not_replayed() -> None:
    """An old suspension after a lift, the same one twice, or one that skips: each is out of order."""
    stop = opened("suspend", "", "st-vitus/dr-a")
    go = opened("lift", stop.digest, "st-vitus/dpo", "st-vitus/dr-b")
    for line in ([stop, go, stop], [stop, stop], [go], [stop, go, go]):
        with pytest.raises(PerunError, match="change_out_of_order"):
            fold(line)
    again = opened("suspend", go.digest, "st-vitus/dr-a")
    assert again.digest != stop.digest
    assert fold([stop, go, again]).suspended


def test_a_change_that_changes_nothing_is_refused() -> None:
    """Suspending what is suspended makes no new head that a lift could miss."""
    stop = opened("suspend", "", "st-vitus/dr-a")
    with pytest.raises(PerunError, match="change_out_of_order"):
        fold([stop, opened("suspend", stop.digest, "st-vitus/dr-b")])


def test_changes_of_two_assets_are_not_mixed() -> None:
    """A caller's mistake is no refusal."""
    stop = opened("suspend", "", "st-vitus/dr-a")
    other = opened("suspend", stop.digest, "acme/ml", asset="unet")
    with pytest.raises(ValueError, match="one asset"):
        fold([stop, other])


def test_a_body_is_made_of_known_words() -> None:
    """An unknown asset is refused in words; an unknown action is a bug."""
    with pytest.raises(PerunError, match="no asset 'scan'"):
        suspension(AGREEMENT, "scan", "suspend", "")
    with pytest.raises(ValueError, match="action"):
        suspension(AGREEMENT, "scans", "stop", "")


def test_another_kind_of_document_is_no_change() -> None:
    """P5: the type is part of what is signed."""
    body = suspension(AGREEMENT, "scans", "suspend", "")
    assert refused(signed("Approval", body, key("st-vitus/dr-a"))) == "wrong_payload_type"
    assert refused(signed("Suspension", body | {"previous": None}, key("st-vitus/dr-a"))) == "malformed"
