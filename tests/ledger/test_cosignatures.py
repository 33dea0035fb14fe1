"""Cosignatures: the published form, who counts towards a quorum, and what is refused."""

from __future__ import annotations

import pytest

from perunml.ledger.checkpoint import open_checkpoint, sign_checkpoint
from perunml.ledger.cosignatures import MAX_TIME, cosign, cosignatures, verify_cosignature
from perunml.ledger.notes import NoteKey, SignatureType, parse_note, sign_note
from perunml.wire.errors import IntegrityError
from perunml.wire.identity import SigningKey

MANAGER, WITNESS, OTHER = (SigningKey.from_secret(bytes([i]) * 32) for i in (1, 2, 3))
NOTE = parse_note(sign_checkpoint(7, bytes(32), MANAGER))
NOW = 1_800_000_000

# C2SP tlog-cosignature's example; its message shows the time.
SOFA = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)


def witness(signer: SigningKey, name: str = "w1") -> NoteKey:
    return NoteKey(name, signer.public, SignatureType.COSIGNATURE_V1)


def test_the_specifications_example_has_our_layout() -> None:
    """Four bytes of key id, eight of time, 64 of signature."""
    line = parse_note(SOFA).signatures[1]
    assert (line.name, line.id.hex(), len(line.data)) == ("witness.example.com/w1", "8d66cf3f", 72)
    assert int.from_bytes(line.data[:8]) == 1679315147


def test_the_signed_message_is_the_specifications() -> None:
    """Two lines, then the checkpoint's text; signed with the plain key."""
    data = cosign(NOTE, "w1", WITNESS, NOW).of(witness(WITNESS))
    WITNESS.public.verify(data[8:], b"cosignature/v1\ntime 1800000000\n" + NOTE.text.encode())


def test_a_cosigned_checkpoint_is_still_the_managers() -> None:
    """The note with more lines reads back, and both kinds of signature verify."""
    note = parse_note(str(cosign(NOTE, "w1", WITNESS, NOW)))
    assert verify_cosignature(note, witness(WITNESS)) == NOW
    assert open_checkpoint(str(note), MANAGER.public).size == 7


def test_a_quorum_counts_known_witnesses_once() -> None:
    """Unknown ones count for nothing, and a witness that cosigns again replaces its older line."""
    note = cosign(cosign(cosign(NOTE, "w1", WITNESS, NOW), "w2", OTHER, NOW), "w1", WITNESS, NOW + 5)
    assert cosignatures(note, [witness(WITNESS), witness(SigningKey.generate(), "w3")]) == {"w1": NOW + 5}
    assert cosignatures(note, [witness(WITNESS), witness(OTHER, "w2")]) == {"w1": NOW + 5, "w2": NOW}
    assert cosignatures(NOTE, [witness(WITNESS)]) == {}


def test_a_signature_as_manager_is_no_cosignature() -> None:
    """The type is in the key's id: a plain signature by the same key and name counts for nothing."""
    note = NOTE.with_signature(NoteKey("w1", WITNESS.public), WITNESS.sign(NOTE.text.encode()))
    assert cosignatures(note, [witness(WITNESS)]) == {}
    with pytest.raises(ValueError, match="witness"):
        verify_cosignature(note, NoteKey("w1", WITNESS.public))


@pytest.mark.parametrize("change", ["text", "time", "signature", "key", "short", "long", "no time", "far time"])
def test_an_altered_cosignature_is_refused(change: str) -> None:
    """Each part of it; also when only a quorum is counted."""
    key = witness(WITNESS)
    data = cosign(NOTE, "w1", WITNESS, NOW).of(key)
    base = parse_note(sign_checkpoint(8, bytes(32), MANAGER)) if change == "text" else NOTE
    changed = {
        "text": data,
        "time": (NOW + 1).to_bytes(8) + data[8:],
        "signature": data[:-1] + bytes([data[-1] ^ 1]),
        "key": NOW.to_bytes(8) + OTHER.sign(b"cosignature/v1\ntime 1800000000\n" + NOTE.text.encode()),
        "short": data[:-1],
        "long": data + b"\0",
        "no time": bytes(8) + data[8:],
        "far time": b"\xff" * 8 + data[8:],
    }[change]
    note = base.with_signature(key, changed)
    for act in (lambda: verify_cosignature(note, key), lambda: cosignatures(note, [key])):
        with pytest.raises(IntegrityError) as refused:
            act()
        assert refused.value.code in ("bad_signature", "bad_checkpoint")


def test_nothing_but_a_checkpoint_is_cosigned() -> None:
    """A witness signs no other text, and at no impossible time."""
    with pytest.raises(IntegrityError) as refused:
        cosign(sign_note("I owe you\n", "a", MANAGER), "w1", WITNESS, NOW)
    assert refused.value.code == "bad_checkpoint"
    for time in (0, -1, MAX_TIME + 1):
        with pytest.raises(ValueError, match="time"):
            cosign(NOTE, "w1", WITNESS, time)
