"""Checkpoints: form, signature, whose ledger, and that a ledger only grows."""

from __future__ import annotations

import base64

import pytest

from ledger import naive
from perunml.ledger.checkpoint import (
    Checkpoint,
    check_progress,
    open_checkpoint,
    origin,
    parse_checkpoint,
    sign_checkpoint,
)
from perunml.ledger.merkle import EMPTY_ROOT, MAX_SIZE
from perunml.ledger.notes import sign_note
from perunml.wire.errors import IntegrityError
from perunml.wire.identity import SigningKey

MANAGER = SigningKey.from_secret(bytes(range(32)))
LEAVES = [b"%d" % i for i in range(30)]
# C2SP tlog-checkpoint's example
SOFA = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
ROOT64 = base64.b64encode(bytes(32)).decode()


def at(size: int, leaves: list[bytes] = LEAVES) -> Checkpoint:
    return open_checkpoint(sign_checkpoint(size, naive.mth(leaves[:size]), MANAGER), MANAGER.public)


def refused(code: str, act: object, *args: object) -> None:
    with pytest.raises(IntegrityError) as caught:
        act(*args)  # type: ignore[operator]  # any callable under test
    assert caught.value.code == code


def test_the_specifications_example() -> None:
    """C2SP tlog-checkpoint."""
    found = parse_checkpoint(SOFA)
    assert (found.origin, found.size, found.root[:2].hex()) == ("example.com/behind-the-sofa", 20852163, "0ac5")
    assert found.text == SOFA


def test_a_checkpoint_has_one_fixed_form() -> None:
    """Held here byte by byte: witnesses elsewhere read it."""
    note = sign_checkpoint(3, bytes(32), MANAGER)
    name = origin(MANAGER.public)
    assert name == "perunml.ledger/41188994976c0c5981046e1c418e9fce"
    assert note.startswith(f"{name}\n3\n{ROOT64}\n\n— {name} ")
    assert open_checkpoint(note, MANAGER.public) == Checkpoint(name, 3, bytes(32))
    assert open_checkpoint(sign_checkpoint(0, EMPTY_ROOT, MANAGER), MANAGER.public).size == 0


def test_extension_lines_are_kept() -> None:
    """They are covered by the signature and mean nothing to us."""
    assert parse_checkpoint(SOFA + "more\n").extensions == ("more",)
    assert parse_checkpoint(SOFA + "more\n").text == SOFA + "more\n"


@pytest.mark.parametrize(
    "text",
    [
        "", "a\n", "a\n1\n", f"a\n1\n{ROOT64}", f"\n1\n{ROOT64}\n", f"a\n01\n{ROOT64}\n", f"a\n-1\n{ROOT64}\n",
        f"a\n+1\n{ROOT64}\n", f"a\n1 \n{ROOT64}\n", f"a\n\u0661\n{ROOT64}\n", f"a\n{MAX_SIZE + 1}\n{ROOT64}\n",
        f"a\n{'9' * 5000}\n{ROOT64}\n", "a\n1\nAAAA\n", f"a\n1\n{ROOT64[:-1]}\n", f"a\n1\n{ROOT64[:-2]}B=\n",
        f"a\n1\n{ROOT64}\n\n", f"a\n1\n{ROOT64}\n\nmore\n", "a\n1\n" + ROOT64.replace("A", "-") + "\n",
    ],
)  # fmt: skip
def test_another_form_is_refused(text: str) -> None:
    """Leading zeros, signs, other digits, other base64, missing and empty lines."""
    refused("bad_checkpoint", parse_checkpoint, text)


def test_another_managers_checkpoint_is_refused() -> None:
    """Signed well, by the wrong key; and our own text signed by another under our name."""
    other = SigningKey.generate()
    refused("bad_checkpoint", open_checkpoint, sign_checkpoint(3, bytes(32), other), MANAGER.public)
    name = origin(MANAGER.public)
    forged = str(sign_note(Checkpoint(name, 3, bytes(32)).text, name, other))
    refused("bad_checkpoint", open_checkpoint, forged, MANAGER.public)
    mine = str(sign_note(Checkpoint("example.com/other", 3, bytes(32)).text, name, MANAGER))
    refused("bad_checkpoint", open_checkpoint, mine, MANAGER.public)


def test_an_altered_checkpoint_is_refused() -> None:
    """Another size under the same signature."""
    note = sign_checkpoint(3, bytes(32), MANAGER)
    refused("bad_signature", open_checkpoint, note.replace("\n3\n", "\n4\n", 1), MANAGER.public)
    refused("bad_checkpoint", open_checkpoint, note.partition("\n\n")[0] + "\n", MANAGER.public)


def test_a_key_of_another_kind_is_refused() -> None:
    """Notes are signed with Ed25519; a pin of a P-384 key opens none."""
    refused(
        "bad_checkpoint", open_checkpoint, sign_checkpoint(3, bytes(32), MANAGER), SigningKey.generate("p384").public
    )


def test_callers_mistakes_are_value_errors() -> None:
    """A root of a wrong length, a size below zero."""
    for size, root in ((1, bytes(31)), (-1, bytes(32)), (MAX_SIZE + 1, bytes(32))):
        with pytest.raises(ValueError, match="size and root"):
            sign_checkpoint(size, root, MANAGER)


def test_a_ledger_that_grows_is_accepted() -> None:
    """From each size to each greater one, and to itself."""
    for old in range(31):
        for new in range(old, 31):
            check_progress(at(old), at(new), naive.proof(old, LEAVES[:new]) if old else [])


def test_p16_a_bad_proof_is_refused() -> None:
    """P16: no proof, the proof of another size, a damaged one."""
    for proof in ([], naive.proof(12, LEAVES[:20]), naive.proof(11, LEAVES[:20])[::-1]):
        refused("bad_consistency_proof", check_progress, at(11), at(20), proof)


def test_p17_a_split_view_is_told_apart() -> None:
    """P17: two roots of one size, both signed, prove that the manager showed two histories."""
    other = [*LEAVES[:19], b"for you only"]
    refused("split_view", check_progress, at(20), at(20, other), [])


def test_s13_a_truncated_ledger_is_told_apart() -> None:
    """S13: fewer entries than were shown before, even though the shorter checkpoint is honest and signed."""
    refused("ledger_rollback", check_progress, at(20), at(19), [])
    refused("ledger_rollback", check_progress, at(1), at(0), [])


def test_s1_a_restored_and_grown_ledger_is_refused() -> None:
    """S1, S13: cut to 10 entries and grown past the old size with others."""
    other = LEAVES[:10] + [b"x%d" % i for i in range(20)]
    refused("bad_consistency_proof", check_progress, at(20), at(25, other), naive.proof(20, other[:25]))


def test_progress_of_another_ledger_is_refused() -> None:
    """Two ledgers are never compared."""
    other = SigningKey.generate()
    theirs = open_checkpoint(sign_checkpoint(20, naive.mth(LEAVES[:20]), other), other.public)
    refused("bad_checkpoint", check_progress, at(20), theirs, [])
