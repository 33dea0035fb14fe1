"""`perunml evidence check`: exit codes 0, 11 and 2, one JSON value on stdout whatever the verdict, no crash on any file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from cli.kit import Party
from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.binding import tpm_extra_data
from perunml.testing.forge import ForgedTpm

VM = FOLDER / "measured-vm"
AT = ("--at", "2026-11-24T00:00:00Z")
BINDING = bytes(48)
NONCE = tpm_extra_data(BINDING).hex()


@pytest.fixture
def quote(tmp_path: Path) -> list[object]:
    """The options for a forged quote alone."""
    tpm = ForgedTpm()
    part = tpm.quote(BINDING)
    words: list[object] = []
    for name, data in (("attest", part.attest), ("signature", part.signature), ("ak", tpm.ak_public)):
        (tmp_path / name).write_bytes(data)
        words += [f"--{name}", tmp_path / name]
    return words


def check(party: Party, *words: object) -> tuple[int, Any]:
    """The exit code, and stdout's JSON."""
    said = party("-o", "json", "evidence", "check", *words, passphrase=None)
    return said.code, said.json if said.out else None


def whole(case: str, **changes: object) -> list[object]:
    """Every option for a case of the vectors."""
    folder = VM / case
    files = {
        "attest": folder / "quote_ecc.msg",
        "signature": folder / "quote_ecc.sig",
        "ak": folder / "ak_ecc.tpm2b_public",
        "event-log": folder / "bios_measurements.bin",
        "ima": folder / "ima.bin",
        "ek-cert": folder / "ek_rsa.crt.der",
        "ca": VM / "ca",
    } | changes
    words: list[object] = ["tpm", *AT, "--nonce", (folder / "nonce.hex").read_text().strip()]
    for name, path in files.items():
        words += [f"--{name}", path]
    return words


def test_a_quote_alone(nobody: Party, quote: list[object]) -> None:
    """Accepted, without PCRs; text says the same as JSON; no identity and no passphrase are needed."""
    code, said = check(nobody, "tpm", *quote, "--nonce", NONCE)
    assert (code, said["accepted"], said["reasons"]) == (0, True, [])
    assert set(said["claims"]) == {"quote", "ak", "pcrs", "boot", "ima", "ek"}
    assert said["claims"]["pcrs"] is None
    text = nobody("evidence", "check", "tpm", *quote, "--nonce", NONCE, passphrase=None)
    assert (text.code, text.err) == (0, "")
    assert text.out.startswith("accepted")
    assert not nobody.home.exists()


def test_a_refusal_says_code_message_expected_and_seen(nobody: Party, quote: list[object]) -> None:
    """Exit code 11, the verdict on stdout, and nothing on stderr."""
    said = nobody("-o", "json", "evidence", "check", "tpm", *quote, "--nonce", "00" * 32, passphrase=None)
    assert (said.code, said.err) == (11, "")
    assert said.json["accepted"] is False
    assert [set(reason) for reason in said.json["reasons"]] == [{"code", "message", "expected", "seen"}]
    assert said.json["reasons"][0]["code"] == "binding_mismatch"
    text = nobody("evidence", "check", "tpm", *quote, "--nonce", "00" * 32, passphrase=None)
    assert text.code == 11
    assert text.out.startswith("refused: binding_mismatch: ")


@pytest.mark.parametrize("nonce", ["", "0", "zz", "00 11", "0x00", NONCE + "0"])
def test_a_nonce_that_is_no_hexadecimal_is_an_unusable_call(nobody: Party, quote: list[object], nonce: str) -> None:
    """N5, N7: never skipped, never guessed."""
    assert nobody.refused("evidence", "check", "tpm", *quote, "--nonce", nonce) == (2, "usage")


def test_unusable_calls(nobody: Party, quote: list[object], tmp_path: Path) -> None:
    """Exit code 2: missing options and files, a folder that is not there, a profile that is none, a time that is none."""
    good = ["tpm", *quote, "--nonce", NONCE]
    (tmp_path / "bad.yaml").write_text("kind: Baseline\n")
    for words, code in (
        (["tpm", *quote], "usage"),
        (["tpm", *quote[2:], "--nonce", NONCE], "usage"),
        ([*good, "--ima", tmp_path / "missing"], "usage"),
        ([*good, "--ek-cert", tmp_path / "ak"], "usage"),
        ([*good, "--ek-cert", tmp_path / "ak", "--ca", tmp_path / "nowhere"], "usage"),
        ([*good, "--profile", tmp_path / "bad.yaml"], "malformed"),
        ([*good, "--at", "yesterday"], "usage"),
        ([*good, "--at", "2027-01-31T00:00:00"], "usage"),
        (["ima", tmp_path / "ak", "--pcr10", "md5:00"], "usage"),
        (["ima", tmp_path / "ak", "--pcr10", "sha256:00"], "usage"),
        (["event-log"], "usage"),
    ):
        assert nobody.refused("evidence", "check", *words) == (2, code), words


@pytest.mark.parametrize("at", ["2026-11-24T00:00:00Z", "2026-11-24T01:00:00+01:00", "2026-11-24T00:00:00.5Z"])
def test_a_time_of_rfc_3339_is_understood(nobody: Party, quote: list[object], at: str) -> None:
    """With an offset and with fractions too."""
    assert check(nobody, "tpm", *quote, "--nonce", NONCE, "--at", at)[0] == 0


def test_files_of_noise_are_refused_and_crash_nothing(nobody: Party, quote: list[object], tmp_path: Path) -> None:
    """Every file in turn: empty, random, text, deep DER, a PEM head alone. Exit code 11, never 1."""
    generator = random.Random(11)
    noises = [b"", b"\0", bytes(70), generator.randbytes(300), b"-----BEGIN PUBLIC KEY-----\n", b"\x30\x80" * 200]
    noise = tmp_path / "noise"
    for data in noises:
        noise.write_bytes(data)
        for option in ("attest", "signature", "ak", "ima", "event-log"):
            words = ["tpm", *quote, "--nonce", NONCE, f"--{option}", noise]
            assert check(nobody, *words)[0] == 11, (option, data[:8])
        assert check(nobody, "event-log", noise)[0] == 11
        code, said = check(nobody, "ima", noise)
        assert code == (0 if not data else 11), said  # an empty log is a log


@needs_vectors
def test_a_whole_case(nobody: Party, tmp_path: Path) -> None:
    """All files of A61: accepted without a profile, with its own, and refused with another's."""
    code, said = check(nobody, *whole("A61"))
    assert (code, said["claims"]["ima"]["entries"], said["claims"]["ima"]["covered"]) == (0, 257, 257)
    assert len(said["claims"]["pcrs"]["sha256"]) == 15
    profiles = {}
    for case in ("A61", "M612-uki"):
        profiles[case] = tmp_path / f"{case}.json"
        logs = ["--ima-log", VM / case / "ima.bin", "--event-log", VM / case / "bios_measurements.bin"]
        nobody.ok("baseline", "build", *logs, "--out", profiles[case])
    assert check(nobody, *whole("A61", profile=profiles["A61"]))[0] == 0
    code, said = check(nobody, *whole("A61", profile=profiles["M612-uki"]))
    assert code == 11
    assert {"pcr_mismatch", "not_in_policy"} <= {reason["code"] for reason in said["reasons"]}


@needs_vectors
def test_k2_a_folder_that_trusts_nobody_refuses(nobody: Party, tmp_path: Path) -> None:
    """K2: empty, or with files that are no certificates."""
    (tmp_path / "notes.txt").write_text("no certificate")
    for folder in (tmp_path, VM / "A61"):
        code, said = check(nobody, *whole("A61", ca=folder))
        assert (code, [reason["code"] for reason in said["reasons"]]) == (11, ["ek_chain"])


@needs_vectors
@pytest.mark.parametrize("case", ["t01-ima-drop-entry", "t11-bios-digest", "t18-quote-nonce-edited"])
def test_a_tampered_case(nobody: Party, case: str) -> None:
    """Exit code 11."""
    code, said = check(nobody, *whole(f"tampered/{case}"))
    assert (code, said["accepted"]) == (11, False)
