"""`perunml seal` and what lies in the home folder afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.kit import PASSPHRASE, Party
from perunml.client.assets import load_sealed
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.sealing.keys import unwrap_key
from perunml.sealing.reader import SealedReader
from perunml.sealing.store import FolderStore


def seal(party: Party, source: Path, name: str = "scans", kind: str = "dataset") -> dict[str, object]:
    found: dict[str, object] = party.ok("seal", source, "--name", name, "--kind", kind)
    return found


def test_seal_and_open_again(vitus: Party, scans: Path) -> None:
    """The owner's own receiving key opens what the owner sealed; nothing in the folder is readable."""
    said = seal(vitus, scans)
    identity = Identity.open(Home(vitus.home), PASSPHRASE)
    sealed, _ = load_sealed(Home(vitus.home), identity, "scans")
    assert said["asset"] == sealed.asset
    with FolderStore(sealed.folder) as store:
        key = unwrap_key(store.keys().find(identity.receiving.public), sealed.manifest, identity.receiving)
        with SealedReader(sealed.manifest, key, store) as reader:
            assert reader.read_file("more/b.csv") == b"PATIENT-MARKER,2\n"
    for file in vitus.home.rglob("*"):
        assert not file.is_file() or b"PATIENT-MARKER" not in file.read_bytes()
        assert "b.csv" not in file.name


def test_sealing_again_makes_the_next_version(vitus: Party, scans: Path) -> None:
    """One asset id over versions, another digest each time: nothing is sealed twice under one key."""
    first, second = seal(vitus, scans), seal(vitus, scans)
    assert (first["version"], second["version"]) == (1, 2)
    assert first["asset"] != second["asset"]
    home, identity = Home(vitus.home), Identity.open(Home(vitus.home), PASSPHRASE)
    ids = {load_sealed(home, identity, "scans", v)[0].manifest.asset_id for v in (1, 2)}
    assert len(ids) == 1
    listed = vitus("-o", "json", "asset", "list", passphrase=None).json["assets"]
    assert [(item["version"], item["asset"]) for item in listed] == [(1, first["asset"]), (2, second["asset"])]


def test_a_single_file(vitus: Party, scans: Path) -> None:
    """Code may be one file."""
    assert seal(vitus, scans / "a.csv", "one", "code")["size"] == len("PATIENT-MARKER,1\n")


def test_a_symbolic_link_is_refused_and_nothing_stays(vitus: Party, scans: Path) -> None:
    """What a link points to is not what the owner chose; no half-sealed asset is left."""
    (scans / "link").symlink_to("/etc/passwd")
    assert vitus.refused("seal", scans, "--name", "scans", "--kind", "dataset") == (2, "path_refused")
    assert vitus.ok("asset", "list") == {"assets": []}
    assert not (vitus.home / "assets" / "scans").exists()


@pytest.mark.parametrize("words", [("--name", "x", "--kind", "secret"), ("--kind", "code"), ("--name", "x")])
def test_usage(vitus: Party, scans: Path, words: tuple[str, ...]) -> None:
    """A kind that is none, a name that is missing."""
    assert vitus.refused("seal", scans, *words) == (2, "usage")


def test_a_missing_source(vitus: Party, tmp_path: Path) -> None:
    """Nothing to seal."""
    found = vitus.refused("seal", tmp_path / "nowhere", "--name", "x", "--kind", "code")
    assert found == (2, "usage")


def test_an_altered_manifest_is_refused(vitus: Party, scans: Path) -> None:
    """A manifest of somebody else's in this party's folder is not pushed."""
    seal(vitus, scans)
    path = vitus.home / "assets" / "scans" / "v1" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"sig":"', b'"sig":"A', 1)[:-4] + b'"}]}')
    code, _ = vitus.refused("push", "scans")
    assert code in (2, 14)


def test_progress_on_a_pipe_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Rate and time left, without a terminal's escapes."""
    from perunml.cli.progress import _lines

    ticks = iter([0.0, 2.0, 10.0, 11.0])
    report = _lines("pushing scans", lambda: next(ticks))
    for done in (1, 2, 3):
        report(done * 2**20, 4 * 2**20)
    said = capsys.readouterr().err
    assert said == "pushing scans: 2.0 MiB of 4.0 MiB, 204.8 KiB/s, 10 s left\n"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is one, a bar that goes away; in JSON, nothing at all."""
    import sys

    from perunml.cli.progress import progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("sealing") as report:
        report(1, 2)
    assert capsys.readouterr().out == ""
    with progress("sealing", silent=True) as report:
        report(1, 2)
    assert capsys.readouterr().err == ""


def test_chunks_of_another_size_that_follow_records(vitus: Party, tmp_path: Path) -> None:
    """`--chunk-size` and `--record-size`: told in the answer, and in the manifest; out of bounds it is a usage error."""
    source = tmp_path / "data"
    source.mkdir()
    (source / "x.bin").write_bytes(bytes(3073 * 1000))
    said = vitus.ok(
        "seal", source, "--name", "records", "--kind", "dataset", "--record-size", 3073, "--chunk-size", "128KiB"
    )
    assert said["aligned"] == said["size"] == 3_073_000
    assert vitus.ok("seal", source, "--name", "plain", "--kind", "dataset", "--chunk-size", "64KiB")["aligned"] == 0
    for size in ("63KiB", "5MiB", "0B"):
        assert vitus("seal", source, "--name", "no", "--kind", "dataset", "--chunk-size", size).code == 2
