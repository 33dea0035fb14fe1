"""`perunml id`, and where passphrases come from."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from cli.kit import PASSPHRASE, Party
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.wire.identity import PublicKey


def test_create_then_show(vitus: Party) -> None:
    """The public half needs no passphrase and is what agreements name."""
    shown = vitus("-o", "json", "id", "show", passphrase=None).json
    assert shown["name"] == "st-vitus"
    PublicKey(shown["identity"])
    opened = Identity.open(Home(vitus.home), PASSPHRASE)
    assert (shown["identity"], shown["receive"]) == (opened.public.identity, opened.public.receive)
    text = vitus("id", "show", passphrase=None)
    assert shown["identity"] in text.out


def test_p384_for_those_who_need_it(nobody: Party) -> None:
    """HSMs speak P-384."""
    assert nobody.ok("id", "create", "--name", "hsm", "--algorithm", "p384")["identity"].startswith("p384:")


def test_keys_are_never_overwritten(vitus: Party) -> None:
    """A second `create` would lock the party out of all that was sealed to the first."""
    before = (vitus.home / "identity.json").read_bytes()
    assert vitus.refused("id", "create", "--name", "other") == (2, "already_exists")
    assert (vitus.home / "identity.json").read_bytes() == before


def test_the_wrong_passphrase_opens_nothing(vitus: Party, scans: Path) -> None:
    """Exit code 14, and nothing is sealed."""
    command = ("seal", scans, "--name", "scans", "--kind", "dataset")
    assert vitus.refused(*command, passphrase=b"wrong") == (14, "unseal_failed")
    assert not (vitus.home / "assets").exists()


@pytest.mark.parametrize("passphrase", [b"", b"\n", b"x" * 5000], ids=["empty", "newline", "endless"])
def test_a_passphrase_that_is_none(vitus: Party, scans: Path, passphrase: bytes) -> None:
    """An empty descriptor is not an empty passphrase."""
    found = vitus.refused("seal", scans, "--name", "scans", "--kind", "dataset", passphrase=passphrase)
    assert found == (2, "passphrase_missing")


def test_no_terminal_and_no_descriptor(vitus: Party, scans: Path) -> None:
    """A script that gives none is told how; nothing hangs."""
    found = vitus.refused("seal", scans, "--name", "scans", "--kind", "dataset", passphrase=None)
    assert found == (2, "passphrase_missing")


def test_a_closed_descriptor(vitus: Party, scans: Path) -> None:
    """A number that is no open file."""
    found = vitus.refused(
        "--passphrase-fd", 987, "seal", scans, "--name", "scans", "--kind", "dataset", passphrase=None
    )
    assert found == (2, "passphrase_missing")


def test_without_an_identity(nobody: Party, scans: Path) -> None:
    """What is missing is said before a passphrase is asked for."""
    assert nobody.refused("id", "show", passphrase=None) == (2, "no_identity")
    found = nobody.refused("seal", scans, "--name", "s", "--kind", "dataset", passphrase=None)
    assert found == (2, "no_identity")


@pytest.mark.parametrize("name", ["", "Two Words", "../up", ".hidden", "a" * 64])
def test_a_name_that_is_no_name(nobody: Party, name: str) -> None:
    """Names stand in paths."""
    assert nobody.refused("id", "create", "--name", name) == (2, "malformed")
    assert not nobody.home.exists()


def test_an_altered_identity_is_refused(vitus: Party) -> None:
    """A flipped bit, another kind of secret, no JSON at all."""
    path = vitus.home / "identity.json"
    good = path.read_bytes()
    for bad in (good.replace(b"perunml/identity", b"perunml/manager-"), b"{}", good[:-30] + b"A" * 28 + good[-2:]):
        path.write_bytes(bad)
        code, _ = vitus.refused("asset", "show", "x")
        assert code in (2, 14)


def test_the_keys_lie_sealed_and_no_output_shows_them(vitus: Party, scans: Path) -> None:
    """Mode 600; no byte of a private key in any other file or on the terminal, in any spelling."""
    path = vitus.home / "identity.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(vitus.home.stat().st_mode) == 0o700
    said = [vitus("id", "show"), vitus("seal", scans, "--name", "scans", "--kind", "dataset"), vitus("asset", "list")]
    said += [vitus("push", "scans"), vitus("-o", "json", "push", "scans", passphrase=b"wrong")]
    seen = b"".join(item.out.encode() + item.err.encode() for item in said)
    seen += b"".join(file.read_bytes() for file in vitus.home.rglob("*") if file.is_file())
    opened = Identity.open(Home(vitus.home), PASSPHRASE)
    for secret in (opened.signing.secret(), opened.receiving.secret(), PASSPHRASE):
        for part in (secret[:24], secret[-24:]):
            spellings = (part, part.hex().encode(), base64.urlsafe_b64encode(part), base64.b64encode(part))
            assert not any(spelling in seen for spelling in spellings)
    for shown in (repr(opened), repr(opened.signing), repr(opened.receiving)):
        assert "secret" not in shown
        assert opened.signing.secret().hex() not in shown


def test_home_from_the_environment(vitus: Party, nobody: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    """$PERUNML_HOME stands where `--home` is not given."""
    from perunml.cli.root import run

    monkeypatch.setenv("PERUNML_HOME", str(vitus.home))
    assert run(["id", "show"]) == 0


def test_options_stand_before_or_after_the_verb(vitus: Party) -> None:
    """`-o json` where people put it."""
    assert vitus("id", "show", "-o", "json").json == vitus("-o", "json", "id", "show").json
