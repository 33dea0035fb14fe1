"""Signed notes: published vectors, one spelling, altered notes and keys refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.ledger.notes import MAX_NOTE, MAX_SIGNATURES, Note, NoteKey, SignatureType, parse_note, sign_note
from perunml.wire.errors import IntegrityError, PerunError
from perunml.wire.identity import SigningKey

# The example of Go's golang.org/x/mod/sumdb/note, which C2SP signed-note describes.
NEUMANN_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NEUMANN_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
NEUMANN = f"{NEUMANN_TEXT}\n{NEUMANN_LINE}"
SUMDB_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"

# The example of C2SP signed-note: an empty line in the text, and a dash that is not ASCII.
QUASIMODO = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
    "— quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)


def bad_note(text: str) -> None:
    with pytest.raises(IntegrityError) as refused:
        parse_note(text)
    assert refused.value.code == "bad_checkpoint"


def test_the_published_note_verifies() -> None:
    """Key, key id, text and signature as another implementation made them."""
    key = NoteKey.parse(NEUMANN_KEY)
    assert (key.name, key.id.hex(), key.text) == ("PeterNeumann", "c74f20a3", NEUMANN_KEY)
    note = parse_note(NEUMANN)
    note.verify(key)
    assert note.text == NEUMANN_TEXT
    assert str(note) == NEUMANN


def test_published_keys_read_back() -> None:
    """The Go checksum database's key has the id that it claims."""
    assert NoteKey.parse(SUMDB_KEY).text == SUMDB_KEY


def test_the_specifications_example_is_split_at_its_last_empty_line() -> None:
    """C2SP signed-note, "Format"."""
    note = parse_note(QUASIMODO)
    assert note.text.endswith("sole:\n\ned è subito sera.\n")
    assert [(s.name, s.id.hex(), len(s.data)) for s in note.signatures] == [
        ("quasimodo.example/salvatore", "367ba04b", 64)
    ]
    assert str(note) == QUASIMODO


def test_every_flipped_bit_of_a_signed_note_is_refused() -> None:
    """In the text, the name, the key id or the signature."""
    key, whole = NoteKey.parse(NEUMANN_KEY), NEUMANN.encode()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        try:
            text = changed.decode()
        except UnicodeDecodeError:
            continue
        with pytest.raises(IntegrityError):
            parse_note(text).verify(key)


def test_unknown_signatures_are_kept_and_count_for_nothing() -> None:
    """C2SP signed-note, "Signatures": of other names, other ids and other types, before and after ours."""
    key = NoteKey.parse(NEUMANN_KEY)
    other = "— PeterNeumann AAAAAAE=\n— someone.else/x x08go/ZJkuBS\n"
    for text in (f"{NEUMANN}{other}", f"{NEUMANN_TEXT}\n{other}{NEUMANN_LINE}"):
        parse_note(text).verify(key)
        assert str(parse_note(text)) == text
    with pytest.raises(IntegrityError) as refused:
        parse_note(f"{NEUMANN_TEXT}\n{other}").verify(key)
    assert refused.value.code == "bad_checkpoint"


def test_a_second_line_of_the_same_key_is_refused() -> None:
    """Which one would count?"""
    with pytest.raises(IntegrityError) as refused:
        parse_note(NEUMANN + NEUMANN_LINE).verify(NoteKey.parse(NEUMANN_KEY))
    assert refused.value.code == "bad_checkpoint"


def test_a_false_line_under_our_name_and_id_is_refused() -> None:
    """A collision of the 32-bit id is cheap and gets nothing but a bad signature."""
    signer = SigningKey.generate()
    key = NoteKey("example.com/log", signer.public)
    forged = Note("text\n").with_signature(key, SigningKey.generate().sign(b"text\n"))
    with pytest.raises(IntegrityError) as refused:
        parse_note(str(forged)).verify(key)
    assert refused.value.code == "bad_signature"


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "\n\n", "text", "text\n", "text\n\n", "text\n\n— a AAAAAAE=", "\n\n— a AAAAAAE=\n", "text\n— a AAAAAAE=\n",
        "text\n\n- a AAAAAAE=\n", "text\n\n—a AAAAAAE=\n", "text\n\n— AAAAAAE=\n", "text\n\n— a  AAAAAAE=\n",
        "text\n\n— a+b AAAAAAE=\n", "text\n\n— a\u2003b AAAAAAE=\n", "text\n\n— a AAAA\n", "text\n\n— a AAAAAAE\n",
        "text\n\n— a AAAAAAF=\n", "text\n\n— a AAAA-_E=\n", "text\n\n— a AAAAAAE=\n\n", "text\n\n— a AAAAAAE= \n",
        "te\rxt\n\n— a AAAAAAE=\n", "te\x1b[31mxt\n\n— a AAAAAAE=\n", "te\0xt\n\n— a AAAAAAE=\n", "te\ud800\n\n— a AAAAAAE=\n",
        "text\n\n— a AAAAAAE=\nmore\n",
    ],
)  # fmt: skip
def test_another_form_is_refused(text: str) -> None:
    """D10 among them: control characters have no place in a note."""
    bad_note(text)


def test_long_notes_are_refused() -> None:
    """Too many bytes, too many signatures; 16 signatures are always read."""
    parse_note("text\n\n" + "— a AAAAAAE=\n" * 16)
    bad_note("text\n\n" + "— a AAAAAAE=\n" * (MAX_SIGNATURES + 1))
    bad_note("x" * MAX_NOTE + "\n\n— a AAAAAAE=\n")


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "a+b", "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        NEUMANN_KEY.replace("c74f20a3", "c74f20a4"), NEUMANN_KEY.replace("c74f20a3", "C74F20A3"),
        NEUMANN_KEY.replace("Peter", "Pater"), NEUMANN_KEY[:-4], NEUMANN_KEY + "AAAA", NEUMANN_KEY.replace("+ARp", "+AhP"),
        NEUMANN_KEY.replace("+ARp", "+/xP"), "Peter Neumann" + NEUMANN_KEY[12:], NEUMANN_KEY + "\n",
    ],
)  # fmt: skip
def test_another_form_of_a_key_is_refused(text: str) -> None:
    """Wrong id, another type of key, spaces, cut or lengthened."""
    with pytest.raises(IntegrityError) as refused:
        NoteKey.parse(text)
    assert refused.value.code == "bad_checkpoint"


def test_a_note_key_is_ed25519_with_a_plain_name() -> None:
    """Names that would break a signature line, and keys of HSMs, are the caller's mistake."""
    public = SigningKey.generate().public
    for name in ("", "a b", "a+b", "a\nb", "a\u2028b"):
        with pytest.raises(ValueError, match="name"):
            NoteKey(name, public)
    with pytest.raises(ValueError, match="Ed25519"):
        NoteKey("a", SigningKey.generate("p384").public)
    for text in ("no newline", "\nempty first line\n", "tab\t\n"):
        with pytest.raises(ValueError, match="newline"):
            sign_note(text, "a", SigningKey.generate())
    with pytest.raises(ValueError, match="cosignature"):
        parse_note(NEUMANN).verify(NoteKey("a", public, SignatureType.COSIGNATURE_V1))


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]) | st.just("\n"), min_size=1, max_size=80))
def test_any_text_is_signed_and_read_back(text: str) -> None:
    """Round trip, with empty lines in the text too."""
    text = text.lstrip("\n") + "\n"
    if text == "\n":
        text = "x\n"
    signer = SigningKey.generate()
    note = parse_note(str(sign_note(text, "example.com/log", signer)))
    note.verify(NoteKey("example.com/log", signer.public))
    assert note.text == text


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="— aA=+\n\t/\ud800é", max_size=40))
def test_nonsense_never_crashes(text: str) -> None:
    """Whatever is read prints the same; the rest is refused with a code."""
    try:
        note = parse_note(text)
    except PerunError:
        return
    assert str(note) == text
