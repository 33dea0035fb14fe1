"""Assets whose blobs lie in a bucket: straight from their owner to the bucket and from there to the host, whatever the bucket does."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from manager.road import Road, Sealed, push, push_message, seal
from manager.world import PASSPHRASE, World, cached_keys, code_of
from perunml.api.assets import AssetView, BlobAddresses, ReadRequest, UploadRequest
from perunml.api.runs import InputKey
from perunml.client import buckets as client
from perunml.client.connection import Connection
from perunml.host import buckets as reading
from perunml.host import fetch
from perunml.host.session import Session
from perunml.manager import buckets, stores
from perunml.sealing import addressed
from perunml.sealing.store import FolderStore
from perunml.wire.identity import SigningKey
from sealing.bucket import ACCOUNT, NAME, Bucket, broken, busy, cut, lost

STORE = "bucket"
FILES = {"a.csv": b"1,2\n" * 100}


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    made = Bucket()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries take no time."""
    monkeypatch.setattr(addressed, "FIRST_PAUSE", 0)


def credentials(folder: Path) -> Path:
    file = folder / "credentials.json"
    file.write_text(json.dumps({"key_id": ACCOUNT.key_id, "secret": ACCOUNT.secret}))
    return file


def add(world: World, bucket: Bucket, name: str = STORE, at: str = NAME, **more: object) -> stores.Named:
    words = {
        "s3": bucket.url,
        "bucket": at,
        "prefix": "a/prefix",
        "credentials": credentials(world.folder.parent),
        **more,
    }
    with pytest.MonkeyPatch.context() as patch:  # scrypt is slow; the command line's test opens a root key for real
        patch.setattr(stores, "_unlock", lambda folder, *_: cached_keys(folder))
        return stores.add(world.folder, name, PASSPHRASE, **words)  # type: ignore[arg-type]  # of several types


@pytest.fixture(scope="module")
def road(world: World, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Road:
    """Everything that the parties bring lies in the bucket; the store was added while the manager ran."""
    add(world, bucket)
    return Road(world, tmp_path_factory.mktemp("road"), store=STORE)


@pytest.fixture
def started(road: Road) -> tuple[Session, InputKey]:
    _, session, delivery = road.started()
    return session, delivery.inputs["scans"]


def where(sealed: Sealed, blob: str) -> str:
    return f"a/prefix/{sealed.digest.removeprefix('sha256:')}/blobs/{blob}"


def fetched(road: Road, started: tuple[Session, InputKey], folder: Path) -> dict[str, bytes]:
    session, item = started
    found = fetch.fetch_input("scans", item, road.scans.manifest, lambda: session.link, folder)
    with found.reader as reader:
        return {path: reader.read_file(path) for path in reader.files}


@pytest.fixture
def owner() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def party(road: Road, owner: SigningKey) -> Connection:
    return road.world.party(owner)


@pytest.fixture
def sealed(tmp_path: Path, owner: SigningKey) -> Sealed:
    return seal(tmp_path / "sealed", owner, "own", "dataset", {"a": os.urandom(300_000)}, chunk_size=65536)


def register(party: Connection, sealed: Sealed, store: str = STORE) -> AssetView:
    message = push_message(sealed, party.pin.intake).model_copy(update={"store": store})
    return party.call("POST", "/v1/assets", AssetView, message)


def ask(party: Connection, sealed: Sealed, *blobs: str, replace: bool = False) -> BlobAddresses:
    wanted = list(blobs) or [blob.id for blob in sealed.manifest.all_blobs]
    message = UploadRequest(blobs=wanted, replace=replace)
    return party.call("POST", f"/v1/assets/{sealed.digest}/uploads", BlobAddresses, message)


def bring(party: Connection, sealed: Sealed, *, replace: bool = False) -> None:
    with FolderStore(sealed.folder) as store:
        client.upload(party, sealed.digest, sealed.manifest, store, replace, None)


def test_from_owner_to_host_through_the_bucket(
    road: Road, bucket: Bucket, started: tuple[Session, InputKey], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ciphertext never passes the manager; no address, and nothing of the credentials, is in any log or on the manager's disk."""
    caplog.set_level(logging.DEBUG)
    bucket.seen.clear()
    assert fetched(road, started, tmp_path) == FILES
    assert {urlsplit(path).path for method, path in bucket.seen if method == "GET"} == {
        f"/{NAME}/{where(road.scans, blob.id)}" for blob in road.scans.manifest.all_blobs
    }
    assert not any((road.world.folder / "blobs").iterdir())
    assert caplog.records
    for text in (ACCOUNT.secret, ACCOUNT.key_id, "X-Amz-Signature"):
        assert text not in caplog.text
        for path in (path for path in road.world.folder.rglob("*") if path.is_file()):
            assert text.encode() not in path.read_bytes(), path
    assert {parse_qs(urlsplit(path).query)["X-Amz-Expires"][0] for _, path in bucket.seen} <= set(
        map(str, range(1, 31))
    )


def test_many_blobs_are_asked_for_in_turns(
    road: Road, bucket: Bucket, started: tuple[Session, InputKey], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit into one question comes with the next, in both ways; more than the bound at once is refused."""
    monkeypatch.setattr(client, "MAX_ASKED", 1)
    monkeypatch.setattr(reading, "MAX_ASKED", 1)
    bring(road.party["hospital"], road.scans, replace=True)
    assert fetched(road, started, tmp_path) == FILES
    path = f"/v1/assets/{road.scans.digest}/uploads"
    for blobs in (["ab" * 16] * 65, []):
        data = json.dumps({"blobs": blobs, "replace": False}).encode()
        assert code_of(lambda data=data: road.party["hospital"].raw("POST", path, data)) == "malformed"


def test_who_knows_no_buckets_is_not_troubled_by_them(started: tuple[Session, InputKey]) -> None:
    """A message says `store` where there is one, and else is what it was before there were any."""
    _, item = started
    assert json.loads(item.encode())["store"] == STORE
    assert "store" not in json.loads(item.model_copy(update={"store": ""}).encode())


def test_an_address_lives_no_longer_than_the_lease(
    road: Road, started: tuple[Session, InputKey], bucket: Bucket
) -> None:
    """It reads one blob until the lease would have ended; then the bucket itself refuses it. A lease that is over gives none."""
    import httpx

    session, item = started
    blob = road.scans.manifest.blobs[0].id
    found = session.link.addresses(item.asset, [blob])
    assert 0 < found.expires_in <= 30
    assert parse_qs(urlsplit(found.urls[blob]).query)["X-Amz-Expires"] == [str(found.expires_in)]
    assert blob not in repr(found)
    assert httpx.get(found.urls[blob]).status_code == 200
    bucket.clock = lambda: time.time() + 31
    assert httpx.get(found.urls[blob]).status_code == 403
    bucket.clock = time.time
    link = session.link
    session.finish({}, error="code_failed")
    assert code_of(lambda: link.addresses(item.asset, [blob])) == "lease_ended"


def test_who_gets_addresses(road: Road, started: tuple[Session, InputKey], party: Connection, sealed: Sealed) -> None:
    """To write: the owner, for blobs of its manifest. To read: a lease that was granted the asset. All others hear that there is nothing."""
    session, item = started
    register(party, sealed)
    stranger = road.world.party()
    assert code_of(lambda: ask(stranger, sealed)) == "not_entitled"
    assert code_of(lambda: ask(road.party["startup"], road.scans)) == "not_entitled"
    assert code_of(lambda: ask(party, sealed, "ab" * 16)) == "not_entitled"
    assert code_of(lambda: ask(party, sealed, road.scans.manifest.blobs[0].id)) == "not_entitled"
    assert code_of(lambda: session.link.addresses(item.asset, ["ab" * 16])) == "not_entitled"
    own = [blob.id for blob in sealed.manifest.all_blobs]
    assert code_of(lambda: session.link.addresses(sealed.digest, own)) == "not_entitled"
    message = ReadRequest(blobs=own)
    assert (
        code_of(lambda: party.call("POST", f"/v1/assets/{sealed.digest}/reads", BlobAddresses, message))
        == "request_unsigned"
    )
    assert set(ask(party, sealed).urls) == set(own)


@pytest.mark.parametrize("fault", ["gone", "cut", "grown", "altered", "swapped", "away"])
def test_what_the_bucket_s_keeper_does_is_refused_by_the_host(
    road: Road, bucket: Bucket, started: tuple[Session, InputKey], tmp_path: Path, fault: str
) -> None:
    """Each has its code; the owner mends it by pushing again, the swapped ones with `--replace`."""
    names = [where(road.scans, blob.id) for blob in road.scans.manifest.all_blobs]
    kept = {name: bucket.get(name) for name in bucket.held()}
    first = kept[names[0]]
    match fault:
        case "gone":
            bucket.delete(names[0])
        case "cut":
            bucket.put(names[0], first[:-1])
        case "grown":
            bucket.put(names[0], first + b"x")
        case "altered":
            bucket.put(names[0], bytes([first[0] ^ 1]) + first[1:])
        case "swapped":
            bucket.put(names[0], os.urandom(len(first)))
        case _:
            bucket.remove()
    expected = {"gone": "blob_missing", "cut": "blob_truncated", "grown": "blob_truncated", "away": "store_refused"}
    assert code_of(lambda: fetched(road, started, tmp_path / "1")) == expected.get(fault, "tree_mismatch")
    if fault == "away":
        assert code_of(lambda: bring(road.party["hospital"], road.scans)) == "store_refused"
        bucket.make()
        for name, data in kept.items():
            bucket.put(name, data)
    bring(road.party["hospital"], road.scans)
    if fault in ("altered", "swapped"):
        assert code_of(lambda: fetched(road, started, tmp_path / "2")) == "tree_mismatch"
        bring(road.party["hospital"], road.scans, replace=True)
    assert fetched(road, started, tmp_path / "3") == FILES


@pytest.mark.parametrize("fault", [busy("GET"), broken("GET"), cut])
def test_faults_that_pass_by_do_not_end_a_run(
    road: Road, bucket: Bucket, started: tuple[Session, InputKey], tmp_path: Path, fault: object
) -> None:
    """503, a broken connection, half an answer: asked again, with another address."""
    bucket.faults = [fault] * 3
    assert fetched(road, started, tmp_path) == FILES
    assert bucket.faults == []


def test_a_bucket_that_goes_on_failing(
    road: Road, bucket: Bucket, started: tuple[Session, InputKey], tmp_path: Path
) -> None:
    """Tries are bounded, for host and owner."""
    bucket.seen.clear()
    bucket.faults = [busy("GET")] * addressed.TRIES * 2
    assert code_of(lambda: fetched(road, started, tmp_path)) == "store_unreachable"
    assert len(bucket.seen) <= addressed.TRIES * 2, "tries of both blobs, which are read at once"
    bucket.faults = [busy("HEAD")] * 2 * stores.TRIES * buckets.LOOKS
    assert code_of(lambda: bring(road.party["hospital"], road.scans)) == "store_unreachable"
    bucket.faults = []


def test_addresses_are_asked_for_again_as_the_lease_is_renewed(
    road: Road, bucket: Bucket, started: tuple[Session, InputKey], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer of the manager serves many reads, but for half of its time at most; one that the bucket does not take is replaced once."""
    session, item = started
    manifest = road.scans.manifest
    now, asked = [0.0], []
    monkeypatch.setattr(
        session.link, "addresses", lambda *words, ask=session.link.addresses: asked.append(words) or ask(*words)
    )
    parts = [(blob.id, 0, manifest.sealed_size(blob)) for blob in manifest.all_blobs for _ in range(6)]
    monkeypatch.setattr(reading, "AHEAD", 1)
    read = reading.read_parts(item, manifest, parts, lambda: session.link, clock=lambda: now[0])
    counts = []
    for _ in range(4):
        for _ in range(3):
            next(read)
        counts.append(len(asked))
        now[0] += 31
    assert counts == [1, 2, 3, 4]
    assert code_of(lambda: list(read)) == "", "the last of it"
    bucket.clock = lambda: time.time() + 31
    try:
        read = reading.read_parts(item, manifest, parts[:1], lambda: session.link)
        assert code_of(lambda: list(read)) == "store_refused"
    finally:
        bucket.clock = time.time
    assert len(asked) <= 8


def test_a_lost_lease_ends_a_transfer(road: Road, bucket: Bucket, started: tuple[Session, InputKey]) -> None:
    """What is read next is refused by the manager, whatever the bucket would still give."""
    session, item = started
    manifest = road.scans.manifest
    link = session.link
    session.finish({}, error="code_failed")
    parts = [(manifest.blobs[0].id, 0, 16)]
    assert code_of(lambda: list(reading.read_parts(item, manifest, parts, lambda: link))) == "lease_ended"
    assert code_of(lambda: list(reading.read_parts(item, manifest, parts, lambda: session.link))) == "lease_over"


@pytest.mark.parametrize("fault", [busy("PUT"), broken("PUT"), lost])
def test_a_push_survives_faults(bucket: Bucket, party: Connection, sealed: Sealed, fault: object) -> None:
    """What was lost is sent again, what arrived counts, and nothing is written twice."""
    bucket.faults = [fault] * 2
    assert push(party, sealed, STORE).complete
    assert bucket.faults == []
    for blob in sealed.manifest.all_blobs:
        assert len(bucket.get(where(sealed, blob.id))) == sealed.manifest.sealed_size(blob)


def test_a_push_goes_on_where_it_stopped(bucket: Bucket, party: Connection, sealed: Sealed) -> None:
    """Only what is not there in its size is sent; the asset is complete when the manager has seen all of it, and no longer when it sees one gone."""
    assert not register(party, sealed).complete
    first, *rest = sealed.manifest.all_blobs
    with FolderStore(sealed.folder) as store:
        part = bytearray(sealed.manifest.sealed_size(first))
        store.read(first.id, 0, memoryview(part))
    bucket.put(where(sealed, first.id), bytes(part))
    assert set(ask(party, sealed).urls) == {blob.id for blob in rest}
    bucket.put(where(sealed, rest[0].id), b"short")
    assert set(ask(party, sealed).urls) == {blob.id for blob in rest}
    assert where(sealed, rest[0].id) not in bucket.held()
    bucket.seen.clear()
    assert push(party, sealed, STORE).complete
    assert sum(method == "PUT" for method, _ in bucket.seen) == len(rest)
    bucket.delete(where(sealed, first.id))
    assert set(ask(party, sealed).urls) == {first.id}
    view = party.call("GET", f"/v1/assets/{sealed.digest}", AssetView)
    assert (view.complete, view.received[first.id], view.store) == (False, 0, STORE)
    assert push(party, sealed, STORE).complete


def test_where_an_asset_lies_stays(
    bucket: Bucket, party: Connection, sealed: Sealed, owner: SigningKey, tmp_path: Path
) -> None:
    """Neither pushes nor reads mix folder and bucket; an unknown store is named, with those that there are."""
    assert code_of(lambda: register(party, sealed, "elsewhere")) == "store_unknown"
    push(party, sealed, STORE)
    blob = sealed.manifest.all_blobs[0].id
    path = f"/v1/assets/{sealed.digest}/blobs/{blob}?offset=0"
    assert code_of(lambda: party.raw("PUT", path, b"x")) == "store_fixed"
    assert code_of(lambda: party.raw("GET", path + "&length=1")) == "store_fixed"
    assert register(party, sealed, "").store == STORE
    folder = seal(tmp_path / "folder", owner, "folder", "dataset", {"a": b"x"})
    assert push(party, folder).store == ""
    assert "store" not in json.loads(party.raw("GET", f"/v1/assets/{folder.digest}"))
    assert code_of(lambda: register(party, folder)) == "store_fixed"
    assert code_of(lambda: ask(party, folder)) == "store_fixed"


def test_stores_are_named_listed_and_removed(road: Road, bucket: Bucket) -> None:
    """One with assets stays; a name stands for one place; credentials are replaced in place, and those that do not let in are not taken."""
    world = road.world
    assert add(world, bucket, "second").as_json()["prefix"] == "a/prefix"
    assert [one.name for one in stores.show(world.folder)] == [STORE, "second"]
    assert code_of(lambda: add(world, bucket, "second")) == "store_unknown"
    assert code_of(lambda: add(world, bucket, "third", replace=True)) == "store_unknown"
    assert code_of(lambda: add(world, bucket, "second", prefix="other", replace=True)) == "store_unknown"
    assert code_of(lambda: add(world, bucket, "Third")) == "store_invalid"
    assert code_of(lambda: add(world, bucket, "third", at="not-there")) == "store_refused"
    assert code_of(lambda: add(world, bucket, "third", credentials=world.folder / "none")) == "store_invalid"
    assert add(world, bucket, STORE, replace=True).assets >= 2
    assert code_of(lambda: stores.remove(world.folder, STORE)) == "store_in_use"
    assert stores.remove(world.folder, "second").name == "second"
    assert code_of(lambda: stores.remove(world.folder, "second")) == "store_unknown"


def test_credentials_go_to_no_other_service(road: Road, bucket: Bucket, party: Connection, sealed: Sealed) -> None:
    """Whoever writes another address into the manager's database makes its credentials unreadable, and gets none of them."""
    add(road.world, bucket, "moved")
    with sqlite3.connect(road.world.folder / "manager.sqlite") as database:
        database.execute("UPDATE stores SET url = 'https://thief.example' WHERE name = 'moved'")
    register(party, sealed, "moved")
    assert code_of(lambda: ask(party, sealed)) == "custody_broken"
