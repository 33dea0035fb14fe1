"""Sealing again: what was interrupted goes on, a next version shares what did not change, and nobody slips in a key or a blob."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perunml.client import assets, sealing_work
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.sealing import journal as journals
from perunml.sealing import writer
from perunml.sealing.manifest import open_manifest
from perunml.sealing.reader import SealedReader, verify_tree
from perunml.sealing.store import FolderStore
from perunml.wire.dsse import signed
from perunml.wire.encoding import b64
from perunml.wire.errors import PerunError
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey

PASSPHRASE = b"correct horse battery staple"
CHUNK = 64 * 1024


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of these tests are made a moment before they are sealed; many blobs of few bytes."""
    monkeypatch.setattr(journals, "SETTLED", 0)
    monkeypatch.setattr(writer, "SHARED_BLOB", 100_000)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def identity(home: Home) -> Identity:
    return Identity.create(home, "st-vitus", PASSPHRASE)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    folder = tmp_path / "plain"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.bin").write_bytes(random.Random(number).randbytes(90_000))
    return folder


def seal(home: Home, identity: Identity, plain: Path, **options: object) -> assets.SealedAsset:
    return assets.seal(home, identity, plain, name="scans", kind="dataset", chunk_size=CHUNK, **options)  # type: ignore[arg-type] # as given


def contents(home: Home, identity: Identity, version: int | None = None) -> dict[str, bytes]:
    """Everything in an asset, each check made."""
    sealed, envelope = assets.load_sealed(home, identity, "scans", version)
    manifest = open_manifest(envelope, [identity.signing.public])
    with FolderStore(sealed.folder) as store:
        verify_tree(manifest, store)
        with SealedReader(manifest, identity.data_key(store.keys(), manifest), store) as reader:
            return {path: reader.read_file(path) for path in reader.files}


def files(plain: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in plain.iterdir()}


def blobs(home: Home, version: int) -> set[str]:
    return {path.name for path in (home.asset("scans", version) / "blobs").iterdir()}


def test_a_next_version_shares_what_did_not_change(home: Home, identity: Identity, plain: Path) -> None:
    """One file of six changed, one went, one came: the others' blobs are the very same, both versions open."""
    first = seal(home, identity, plain)
    assert first.reused == 0
    before = files(plain)
    (plain / "2.bin").write_bytes(b"other" * 1000)
    (plain / "5.bin").unlink()
    (plain / "6.bin").write_bytes(b"new" * 30_000)
    second = seal(home, identity, plain)
    assert second.manifest.asset_id == first.manifest.asset_id
    assert second.reused >= 2 * 90_000
    assert contents(home, identity, 1) == before
    assert contents(home, identity, 2) == files(plain)
    same = blobs(home, 1) & blobs(home, 2)
    assert sum(blob.size for blob in second.manifest.blobs if blob.id in same) == second.reused
    assert blobs(home, 2) == {blob.id for blob in second.manifest.all_blobs}
    for name in same:
        assert (home.asset("scans", 1) / "blobs" / name).samefile(home.asset("scans", 2) / "blobs" / name)
    third = seal(home, identity, plain)
    assert third.reused == third.manifest.size
    assert contents(home, identity) == files(plain)


def test_a_fresh_key_shares_nothing(home: Home, identity: Identity, plain: Path) -> None:
    """Whoever was given the first version's key opens nothing of the second."""
    seal(home, identity, plain)
    second = seal(home, identity, plain, fresh_key=True)
    assert (second.reused, blobs(home, 1) & blobs(home, 2)) == (0, set())
    keys = []
    for version in (1, 2):
        sealed, _ = assets.load_sealed(home, identity, "scans", version)
        with FolderStore(sealed.folder) as store:
            keys.append(bytes(identity.data_key(store.keys(), sealed.manifest)))
    assert keys[0] != keys[1]
    assert contents(home, identity) == files(plain)


def test_another_chunk_size_or_kind_shares_nothing(home: Home, identity: Identity, plain: Path) -> None:
    """What a blob is depends on both."""
    seal(home, identity, plain)
    other = assets.seal(home, identity, plain, name="scans", kind="model", chunk_size=CHUNK)
    larger = assets.seal(home, identity, plain, name="scans", kind="model", chunk_size=2 * CHUNK)
    assert (other.reused, larger.reused) == (0, 0)
    assert contents(home, identity) == files(plain)


def test_what_was_changed_just_now_is_read_again(
    home: Home, identity: Identity, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within a step of the file system's clock would not show."""
    monkeypatch.setattr(journals, "SETTLED", 3600 * 10**9)
    seal(home, identity, plain)
    assert seal(home, identity, plain).reused == 0


def test_a_file_that_changes_while_it_is_read_is_not_noted_as_it_was(
    home: Home, identity: Identity, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same size, other bytes, just after it was read: the next version reads it."""
    real = writer._seal_blob

    def meddling(*args: object) -> object:
        done = real(*args)  # type: ignore[arg-type] # as given
        (plain / "0.bin").write_bytes(bytes(90_000))
        return done

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_seal_blob", meddling)
        seal(home, identity, plain)
    seal(home, identity, plain)
    assert contents(home, identity)["0.bin"] == bytes(90_000)


def test_an_interrupted_sealing_goes_on(home: Home, identity: Identity, plain: Path) -> None:
    """Its owner stops it in the middle: what was whole is not sealed again, and nothing is left behind at the end."""
    stopped = []

    def stop(done: int, total: int) -> None:
        if done > total // 2 and not stopped:
            stopped.append(done)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal(home, identity, plain, progress=stop)
    assert not home.asset_versions("scans")
    made = seal(home, identity, plain, progress=stop)
    assert made.reused >= 2 * 90_000
    assert contents(home, identity) == files(plain)
    assert {path.name for path in (home.assets / "scans").iterdir()} == {"v1"}
    assert blobs(home, 1) == {blob.id for blob in made.manifest.all_blobs}


@pytest.mark.parametrize("at", range(0, 40, 5))
def test_a_killed_sealing_goes_on(home: Home, identity: Identity, plain: Path, at: int) -> None:
    """kill -9 somewhere: whatever was left, the next one ends well, and everything opens."""
    code = """
import os, sys, threading, time
from pathlib import Path
from perunml.client import assets
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.sealing import journal, writer
journal.SETTLED, writer.SHARED_BLOB = 0, 100_000
home, identity = Home(Path(sys.argv[1])), Identity.open(Home(Path(sys.argv[1])), sys.argv[3].encode())
print("ready", flush=True)
assets.seal(home, identity, Path(sys.argv[2]), name="scans", kind="dataset", chunk_size=65536)
print("done", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, home.folder, plain, PASSPHRASE.decode()], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    time.sleep(at / 1000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    seal(home, identity, plain)
    assert contents(home, identity) == files(plain)


def interrupted(home: Home, identity: Identity, plain: Path) -> Path:
    """The folder of a sealing that stopped near its end."""

    def stop(done: int, total: int) -> None:
        if done > total - 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal(home, identity, plain, progress=stop)
    return home.assets / "scans" / ".sealing"


def test_a_key_that_this_party_did_not_make_is_not_sealed_under(home: Home, identity: Identity, plain: Path) -> None:
    """Whoever can write into the home leaves a header with a key of his own, sealed to the party as anybody can; for a sealing that was interrupted, and for the version before."""
    thiefs, known = SigningKey.generate(), b"k" * 32
    folder = interrupted(home, identity, plain)
    header = json.loads((folder / "sealing.json").read_text())
    assert header["payloadType"].endswith("sealing+json")

    def forge(place: Path, version: int, asset_id: str) -> None:
        shares = {"shares": False, "asset_id": asset_id}
        body = {"version": version, "asset_kind": "dataset", "chunk_size": CHUNK, **shares}
        info = {"label": "perunml/sealing", "owner": identity.signing.public.text, **body}
        sealed = identity.receiving.public.seal(known, info)
        (place / "sealing.json").write_bytes(signed("Sealing", {**body, "key": b64(sealed)}, thiefs).encode())
        (place / "journal").unlink(missing_ok=True)

    forge(folder, 1, "ab" * 16)
    made = seal(home, identity, plain)
    assert made.manifest.asset_id != "ab" * 16
    forge(made.folder, 1, made.manifest.asset_id)
    again = seal(home, identity, plain)
    for sealed in (made, again):
        with FolderStore(sealed.folder) as store:
            assert bytes(identity.data_key(store.keys(), sealed.manifest)) != known
    assert again.reused == 0


def test_an_altered_journal_is_not_believed(home: Home, identity: Identity, plain: Path) -> None:
    """Another blob, other leaves, another size, a line of another asset's: such files are read again; a line that is cut too."""
    folder = interrupted(home, identity, plain)
    journal, kept = folder / "journal", (folder / "journal").read_bytes()
    lines = [json.loads(line) for line in kept.splitlines()]
    assert len(lines) >= 3
    lines[0]["id"], lines[1]["id"] = lines[1]["id"], lines[0]["id"]
    lines[2]["leaves"] = b64(bytes(32 * (lines[2]["size"] // CHUNK + 1)))
    journal.write_bytes(
        b"".join(json.dumps(line, separators=(",", ":"), sort_keys=True).encode() + b"\n" for line in lines)[:-30]
    )
    made = seal(home, identity, plain)
    assert made.reused <= 90_000 * (len(lines) - 3)
    assert contents(home, identity) == files(plain)


def test_a_blob_that_is_gone_or_cut_is_sealed_again(home: Home, identity: Identity, plain: Path) -> None:
    """Of an interrupted sealing, and of the version before."""
    folder = interrupted(home, identity, plain)
    whole = sorted((folder / "blobs").iterdir())
    whole[0].unlink()
    os.truncate(whole[1], 100)
    seal(home, identity, plain)
    assert contents(home, identity) == files(plain)
    sorted((home.asset("scans") / "blobs").iterdir())[0].unlink()
    seal(home, identity, plain)
    assert contents(home, identity) == files(plain)


def test_a_sealing_of_something_else_is_not_gone_on_with(home: Home, identity: Identity, plain: Path) -> None:
    """Another kind, another chunk size, another party's key: it begins anew."""
    interrupted(home, identity, plain)
    made = assets.seal(home, identity, plain, name="scans", kind="model", chunk_size=CHUNK)
    assert (made.reused, made.manifest.kind) == (0, "model")
    shutil.rmtree(home.assets)
    interrupted(home, identity, plain)
    other = Identity("other", SigningKey.generate(), HpkePrivateKey.generate())
    made = seal(home, other, plain)
    assert made.reused == 0
    assert contents(home, other) == files(plain)


def test_a_fresh_key_does_not_go_on_under_the_old_one(home: Home, identity: Identity, plain: Path) -> None:
    """A next version that shared was interrupted; then its owner wants one that shares nothing."""
    first = seal(home, identity, plain)
    (plain / "5.bin").write_bytes(b"other" * 20_000)
    interrupted(home, identity, plain)
    second = seal(home, identity, plain, fresh_key=True)
    assert (second.manifest.version, second.reused) == (2, 0)
    keys = []
    for sealed in (first, second):
        with FolderStore(sealed.folder) as store:
            keys.append(bytes(identity.data_key(store.keys(), sealed.manifest)))
    assert keys[0] != keys[1]
    assert contents(home, identity) == files(plain)


def test_two_at_once_do_not_meet(home: Home, identity: Identity, plain: Path) -> None:
    """The second one is told."""
    (home.assets / "scans").mkdir(parents=True)
    lock = os.open(home.assets / "scans", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(PerunError, match="sealing_busy"):
        seal(home, identity, plain)
    os.close(lock)
    seal(home, identity, plain)


def test_a_refused_sealing_leaves_nothing(home: Home, identity: Identity, plain: Path) -> None:
    """A link among the files: no folder, no blob, no key; and no name."""
    (plain / "link").symlink_to("/etc/passwd")
    with pytest.raises(PerunError, match="path_refused"):
        seal(home, identity, plain)
    assert not (home.assets / "scans").exists()


def test_the_journal_names_no_file(home: Home, identity: Identity, plain: Path) -> None:
    """File names are sealed; nothing in the folder shows them, nor their sizes one by one."""
    seal(home, identity, plain)
    for path in home.asset("scans").rglob("*"):
        if path.is_file():
            assert b".bin" not in path.read_bytes()
    assert sealing_work.JOURNAL in {path.name for path in home.asset("scans").iterdir()}
