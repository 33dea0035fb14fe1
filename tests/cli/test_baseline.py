"""`perunml baseline`: options become rules, what is left out is told, the file is the document that agreements name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from cli.kit import Party
from cli.test_evidence import NONCE, quote
from perunml.evidence.baseline import Baseline
from perunml.testing.forge import ForgedTpm

DIGEST = "sha256:" + "5a" * 32
OTHER = "sha256:" + "6b" * 32
__all__ = ["quote"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root folder of two files."""
    folder = tmp_path / "root"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "tool").write_bytes(b"\x7fELF")
    (folder / "data").write_bytes(b"x")
    return folder


def test_the_file_is_the_document(nobody: Party, root: Path, tmp_path: Path) -> None:
    """Its SHA-256 is the digest that is answered, that `document digest` says, and that an agreement names."""
    out = tmp_path / "b.json"
    said = nobody.ok("baseline", "build", "--root", root, "--out", out)
    assert said["digest"] == "sha256:" + hashlib.sha256(out.read_bytes()).hexdigest()
    assert nobody.ok("document", "digest", out)["digest"] == said["digest"]
    assert (said["files"], said["left_out"], said["notes"]) == (2, 0, [])
    assert nobody.ok("baseline", "show", out)["digest"] == said["digest"]
    assert nobody.refused("baseline", "build", "--root", root, "--out", out) == (2, "already_exists")


def test_every_option_becomes_its_rule(nobody: Party, root: Path, tmp_path: Path) -> None:
    """Lists are sorted, flags are true, PCRs are values."""
    out = tmp_path / "b.json"
    value = "0" * 64
    nobody.ok(
        "baseline", "build", "--root", root, "--exec-only", "--hash", "sha384", "--pcr", f"sha256:4={value}",
        "--require", "/b", "--require", "/a", "--ima-policy", DIGEST, "--key", DIGEST, "--keyring-key", DIGEST,
        "--allow-violation", "/v", "--allow-reload", "--allow-kexec", "--secure-boot", "--authority", OTHER,
        "--authority", DIGEST, "--dbx", DIGEST, "--mok", DIGEST, "--application", DIGEST, "--loaded", DIGEST,
        "--cmdline", "ima_policy=tcb", "--no-cmdline", "init=", "--open-pcr", "5", "--open-pcr", "1", "--deny-firmware",
        "0" * 16, "--allow-unsafe-clock", "--discrete", "--out", out,
    )  # fmt: skip
    found = Baseline.from_payload(out.read_bytes())
    assert list(found.files) == ["/bin/tool"]
    assert found.as_json()["boot"] == {
        "secure_boot": True, "authorities": [DIGEST, OTHER], "dbx": [DIGEST], "mok": [DIGEST], "applications": [DIGEST],
        "loaded": [DIGEST], "cmdline": ["ima_policy=tcb"], "no_cmdline": ["init="], "open": [1, 5],
    }  # fmt: skip
    assert found.as_json()["ima"] == {
        "require": ["/a", "/b"], "policies": [DIGEST], "keys": [DIGEST], "keyrings": [DIGEST], "violations": ["/v"],
        "reload": True, "kexec": True,
    }  # fmt: skip
    assert found.as_json()["tpm"] == {"unsafe_clock": True, "denied_firmware": ["0" * 16], "discrete": True}
    assert found.pcrs == {"sha256": {4: bytes(32)}}


def test_a_window_for_an_update(nobody: Party, root: Path, tmp_path: Path) -> None:
    """The older state until a date; both options or none."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    nobody.ok("baseline", "build", "--root", root, "--out", old)
    (root / "data").write_bytes(b"y")
    until = "2027-06-30T00:00:00Z"
    said = nobody.ok("baseline", "build", "--root", root, "--older", old, "--until", until, "--out", new)
    assert said["until"] == [{"end": until, "files": 2}]
    changes = nobody.ok("baseline", "diff", old, new)
    assert {change["what"]: change["effect"] for change in changes["changes"]} == {"file": "both", "window": "widens"}
    text = nobody("baseline", "diff", old, new, passphrase=None).out
    assert "file /data changes from" in text
    assert nobody.refused("baseline", "build", "--root", root, "--older", old, "--out", tmp_path / "x") == (2, "usage")


def test_what_is_left_out_is_told(nobody: Party, tmp_path: Path) -> None:
    """On stderr as lines, in JSON as notes; the import of another verifier's policy tells each exclude."""
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"digests": {"/a": ["ab" * 32], "/weak": ["cd" * 20]}, "excludes": ["^/tmp/"]}))
    said = nobody.ok("baseline", "import", policy, "--require", "/a", "--out", tmp_path / "b.json")
    assert (said["files"], said["left_out"], len(said["notes"])) == (1, 2, 2)
    assert said["ima"] == {"require": ["/a"]}
    text = nobody("baseline", "import", policy, "--out", tmp_path / "c.json", passphrase=None)
    assert text.code == 0
    assert "excludes: ^/tmp/ is not carried over" in text.err
    assert "incomplete" in text.out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], "baseline_source"),
        (["--dpkg", "FILE"], "usage"),
        (["--pcrs", "sha256:99", "--event-log", "FILE"], "usage"),
        (["--pcrs", "sha256:1"], "baseline_source"),
        (["--pcr", "sha256:x=00"], "usage"),
        (["--pcr", "sha256:1=00"], "malformed"),
        (["--open-pcr", "15"], "usage"),
        (["--open-pcr", "10"], "malformed"),
        (["--require", ""], "malformed"),
        (["--dbx", "sha256:00"], "malformed"),
        (["--image", "FILE"], "baseline_source"),
    ],
)
def test_a_call_that_makes_no_baseline(nobody: Party, tmp_path: Path, words: list[str], code: str) -> None:
    """One code each; no file is left behind."""
    (tmp_path / "file").write_text("no such thing")
    words = [str(tmp_path / "file") if word == "FILE" else word for word in words]
    assert nobody.refused("baseline", "build", *words, "--out", tmp_path / "out.json") == (2, code)
    assert not (tmp_path / "out.json").exists()


def test_a_log_that_is_none_is_refused_as_evidence(nobody: Party, tmp_path: Path) -> None:
    """Exit code 11, as wherever a log is read."""
    (tmp_path / "log").write_bytes(ForgedTpm().ima_log[:-1])
    assert nobody.refused("baseline", "build", "--ima-log", tmp_path / "log", "--out", tmp_path / "o") == (
        11, "non_canonical",
    )  # fmt: skip


def test_a_profile_in_yaml(nobody: Party, quote: list[object], tmp_path: Path) -> None:
    """`--profile F.yaml`: a baseline as people write it."""
    profile = tmp_path / "profile.yaml"
    profile.write_text("apiVersion: perunml/v1\nkind: Baseline\npcrs: {}\nfiles: {}\n")
    said = nobody(
        "-o", "json", "evidence", "check", "tpm", *quote, "--nonce", NONCE, "--profile", profile, passphrase=None
    )
    assert said.code == 11
    assert said.json["reasons"][0]["code"] == "pcr_digest"
