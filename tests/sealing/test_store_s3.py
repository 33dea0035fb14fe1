"""An S3-compatible bucket as a store: what faults do to it, and what its service or its keeper may try."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest

from perunml.sealing import store_s3
from perunml.sealing.addressed import TRIES, Addressed
from perunml.sealing.keys import new_data_key
from perunml.sealing.manifest import open_manifest
from perunml.sealing.reader import SealedReader
from perunml.sealing.store_s3 import Credentials, Place, S3Store
from perunml.sealing.writer import seal_files
from perunml.wire.errors import IntegrityError, PerunError, Unreachable, UsageError
from perunml.wire.identity import SigningKey
from sealing.bucket import ACCOUNT, NAME, Bucket, broken, busy, cut, lost

BLOB = "ab" * 16
OWNER = SigningKey.generate()
CHUNK = 64 * 1024


@pytest.fixture(scope="module")
def service() -> Iterator[Bucket]:
    made = Bucket()
    yield made
    made.close()


@pytest.fixture
def bucket(service: Bucket) -> Iterator[Bucket]:
    """Empty, and nothing is left of what a test prepared."""
    yield service
    assert not service.faults, "a fault that never came to pass"
    service.clear()
    service.seen.clear()
    service.refused.clear()


def fill(store: S3Store, data: bytes, blob: str = BLOB) -> None:
    with store.create(blob) as out:
        out.write(data)


def read(store: S3Store, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    store.read(BLOB, offset, memoryview(buffer))
    return bytes(buffer)


def test_what_is_sealed_into_a_bucket_comes_back(bucket: Bucket) -> None:
    """Files sealed into a bucket are read from it, tree and tags checked; the bucket holds blobs under the asset's digest alone."""
    asset = "sha256:" + "1d" * 32
    store, key = bucket.store(asset), new_data_key()
    files = {"a": os.urandom(3 * CHUNK + 5), "deep/b": b"", "c": b"1,2\n"}
    envelope = seal_files(files, store, name="x", kind="dataset", owner=OWNER, data_key=key, chunk_size=CHUNK)
    manifest = open_manifest(envelope, [OWNER.public])
    with SealedReader(manifest, key, bucket.store().of(asset)) as reader:
        reader.verify_tree()
        assert {path: reader.read_file(path) for path in reader.files} == files
    wanted = {f"a/prefix/{'1d' * 32}/blobs/{blob.id}" for blob in manifest.all_blobs}
    assert set(bucket.held()) == wanted


@pytest.mark.parametrize("fault", ["altered", "cut", "gone", "swapped"])
def test_what_the_bucket_s_keeper_does_to_a_blob_is_noticed(bucket: Bucket, fault: str) -> None:
    """Each has its own code, by whoever reads."""
    store, key = bucket.store(), new_data_key()
    files = {"a": os.urandom(CHUNK), "b": os.urandom(CHUNK)}
    envelope = seal_files(files, store, name="x", kind="dataset", owner=OWNER, data_key=key, chunk_size=CHUNK)
    manifest = open_manifest(envelope, [OWNER.public])
    where = f"a/prefix/blobs/{manifest.blobs[0].id}"
    data = bucket.get(where)
    match fault:
        case "altered":
            bucket.put(where, data[:-1] + bytes([data[-1] ^ 1]))
        case "cut":
            bucket.put(where, data[:-1])
        case "gone":
            bucket.delete(where)
        case _:
            bucket.put(where, os.urandom(len(data)))
    codes = {"altered": "tree_mismatch", "cut": "blob_truncated", "gone": "blob_missing", "swapped": "tree_mismatch"}
    with SealedReader(manifest, key, store) as reader, pytest.raises(IntegrityError) as caught:
        reader.verify_tree()
    assert caught.value.code == codes[fault]


def test_a_blob_is_never_replaced(bucket: Bucket) -> None:
    """A second put of the same id is refused, and the first stays."""
    fill(bucket.store(), b"first")
    with pytest.raises(IntegrityError) as caught:
        fill(bucket.store(), b"other")
    assert caught.value.code == "blob_exists"
    assert read(bucket.store(), 0, 5) == b"first"


@pytest.mark.parametrize("size", [0, 5, 6 * 2**20 + 1, 11 * 2**20])
def test_large_blobs_go_in_parts(bucket: Bucket, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound a blob is put in parts, whole, and no second time; an empty one is a blob, too."""
    monkeypatch.setattr(store_s3, "SINGLE", 6 * 2**20)
    monkeypatch.setattr(store_s3, "PART", 5 * 2**20)
    data = os.urandom(size)
    fill(bucket.store(), data)
    assert bucket.store().size(BLOB) == size
    assert read(bucket.store(), 0, size) == data
    assert any("uploadId" in path for _, path in bucket.seen) == (size > 6 * 2**20)
    with pytest.raises(IntegrityError) as caught:
        fill(bucket.store(), data)
    assert caught.value.code == "blob_exists"


@pytest.mark.parametrize("fault", [busy("GET"), broken("GET"), cut])
def test_faults_that_pass_by_are_tried_again_in_reading(bucket: Bucket, fault: object) -> None:
    """503, a broken connection, and half an answer: the caller sees none of them."""
    fill(bucket.store(), b"0123456789" * 1000)
    bucket.faults = [fault] * 3
    assert read(bucket.store(), 5, 6000) == (b"0123456789" * 1000)[5:6005]


@pytest.mark.parametrize("fault", [busy("PUT"), broken("PUT"), lost])
def test_faults_that_pass_by_are_tried_again_in_writing(bucket: Bucket, fault: object) -> None:
    """A put whose answer was lost finds its own bytes there, and counts as done."""
    bucket.faults = [fault] * 2 if fault is not lost else [fault]
    fill(bucket.store(), b"once")
    assert read(bucket.store(), 0, 4) == b"once"


def test_a_lost_answer_is_no_way_to_take_another_s_bytes_for_one_s_own(bucket: Bucket) -> None:
    """What lies there after a fault is compared before it counts."""
    fill(bucket.store(), b"evil")
    bucket.faults = [broken("PUT")]
    with pytest.raises(IntegrityError) as caught:
        fill(bucket.store(), b"mine")
    assert caught.value.code == "blob_exists"


def test_a_sealing_that_fails_leaves_nothing(bucket: Bucket) -> None:
    """An exception while a blob is written: no object, no upload begun."""

    def fail() -> None:
        with bucket.store().create(BLOB) as out:
            out.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert bucket.held() == []
    assert bucket.uploads() == 0


def test_discard(bucket: Bucket) -> None:
    """A blob that is discarded is gone; one that is not there is, too."""
    fill(bucket.store(), b"x")
    bucket.store().discard(BLOB)
    bucket.store().discard(BLOB)
    assert bucket.held() == []


def test_tries_are_bounded(bucket: Bucket) -> None:
    """A service that goes on failing is a refusal after the last try, with pauses that grow."""
    pauses: list[float] = []
    store = S3Store(bucket.place, ACCOUNT, pause=pauses.append)
    bucket.faults = [busy("GET")] * store_s3.TRIES
    fill(bucket.store(), b"x")
    with pytest.raises(Unreachable) as caught:
        read(store, 0, 1)
    assert caught.value.code == "store_unreachable"
    assert pauses == sorted(pauses)
    assert len(pauses) == store_s3.TRIES - 1


def test_no_range_is_read_past_a_blob_s_end(bucket: Bucket) -> None:
    """A part that comes short, or from beyond the end, is no part."""
    fill(bucket.store(), b"0123456789")
    for offset, size in ((5, 6), (10, 1), (100, 5)):
        with pytest.raises(IntegrityError) as caught:
            read(bucket.store(), offset, size)
        assert caught.value.code == "blob_truncated"
    assert read(bucket.store(), 10, 0) == b""


def test_bucket_away_and_others_credentials(bucket: Bucket) -> None:
    """A bucket that is not there is not taken for a missing blob; who is let in nowhere is told so."""
    bucket.remove()
    for ask in (lambda: bucket.store().size(BLOB), bucket.store().check, lambda: fill(bucket.store(), b"x")):
        with pytest.raises(Unreachable) as caught:
            ask()
        assert caught.value.code == "store_refused"
    bucket.make()
    stranger = S3Store(bucket.place, Credentials("AKIAOTHER", "x"))
    with pytest.raises(Unreachable) as caught:
        stranger.check()
    assert caught.value.code == "store_refused"
    bucket.store().check()


def test_service_away() -> None:
    """Nobody listens: the refusal names neither account nor address."""
    store = S3Store(Place("http://127.0.0.1:1", NAME), ACCOUNT, pause=lambda seconds: None)
    with pytest.raises(Unreachable) as caught:
        store.size(BLOB)
    assert caught.value.code == "store_unreachable"
    assert_silent(caught.value)


def assert_silent(error: PerunError) -> None:
    text = repr(error) + "".join(str(reason.as_json()) for reason in error.reasons)
    assert error.__cause__ is None
    assert error.__suppress_context__
    for secret in (ACCOUNT.secret, ACCOUNT.key_id, "X-Amz"):
        assert secret not in text


def test_a_signed_address_does_one_thing_for_its_time(bucket: Bucket) -> None:
    """An address reads or writes the one blob that it was made for, and not after its time; its signature is what S3's documentation says."""
    import httpx

    fill(bucket.store(), b"0123456789")
    get = bucket.store().sign("GET", [BLOB], 60)[BLOB]
    assert httpx.get(get, headers={"range": "bytes=2-4"}).content == b"234"
    assert httpx.put(get, content=b"x").status_code == 403
    assert httpx.get(get.replace(BLOB, "cd" * 16)).status_code == 403
    assert httpx.get(get.replace("X-Amz-Expires=60", "X-Amz-Expires=9999")).status_code == 403
    bucket.clock = lambda: time.time() + 61
    assert httpx.get(get).status_code == 403
    bucket.clock = time.time
    assert set(bucket.refused) == {"another signature", "over its time"}


def test_writing_by_address_replaces_nothing(bucket: Bucket) -> None:
    """A blob that came to be there meanwhile stays; whoever gave the address looks at it."""
    address = bucket.store().sign("PUT", [BLOB], 60)[BLOB]
    with Addressed() as by:
        by.write(BLOB, lambda: address, 5, lambda: [b"first"])
        by.write(BLOB, lambda: address, 5, lambda: [b"other"])
    assert read(bucket.store(), 0, 5) == b"first"
    assert [method for method, _ in bucket.seen].count("PUT") == 2


@pytest.mark.parametrize(
    "address", ["http://192.0.2.1/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://[::ffff:8.8.8.8]/"]
)
def test_an_address_in_the_clear_is_not_asked(address: str) -> None:
    """Who reads it on the way could read the blob: refused without a try, and not repeated in the refusal."""
    with Addressed(pause=lambda seconds: None) as by, pytest.raises(Unreachable) as caught:
        by.read(BLOB, lambda: address, 0, 1, 1)
    assert caught.value.code == "store_refused"
    assert address not in str(caught.value)


def test_a_redirection_is_not_followed(bucket: Bucket) -> None:
    """Nor does a service get to say where else the address is shown."""
    fill(bucket.store(), b"x")
    address = bucket.store().sign("GET", [BLOB], 60)[BLOB]
    bucket.faults = [lambda door: door.command == "GET" and (door.answer(307, b"", [("location", bucket.url)]) or True)]
    with Addressed(pause=lambda seconds: None) as by, pytest.raises(Unreachable) as caught:
        by.read(BLOB, lambda: address, 0, 1, 1)
    assert caught.value.code == "store_refused"


def test_a_service_that_knows_no_ranges(bucket: Bucket) -> None:
    """The whole instead of a part is no part, however often it comes."""
    fill(bucket.store(), b"0123456789")
    address = bucket.store().sign("GET", [BLOB], 60)[BLOB]
    bucket.faults = [lambda door: door.answer(200, b"0123456789") or True] * TRIES
    with Addressed(pause=lambda seconds: None) as by, pytest.raises(Unreachable) as caught:
        by.read(BLOB, lambda: address, 2, 3, 10)
    assert caught.value.code == "store_unreachable"


def test_an_answer_that_says_one_range_and_holds_less(bucket: Bucket) -> None:
    """Its headers are right and its body is short: no part, however often it comes."""
    fill(bucket.store(), b"0123456789")
    address = bucket.store().sign("GET", [BLOB], 60)[BLOB]
    bucket.faults = [lambda door: door.answer(206, b"23", [("content-range", "bytes 2-4/10")]) or True] * TRIES
    with Addressed(pause=lambda seconds: None) as by, pytest.raises(Unreachable) as caught:
        by.read(BLOB, lambda: address, 2, 3, 10)
    assert caught.value.code == "store_unreachable"


def test_without_obstore(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lacks the extra is told what to install."""
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(UsageError) as caught:
        S3Store(Place("https://s3.example.org", NAME), ACCOUNT)
    assert caught.value.code == "store_unsupported"


def test_secrets_do_not_show() -> None:
    """Neither credentials nor a store tell what they hold."""
    shown = repr(ACCOUNT) + repr(S3Store(Place("http://localhost:1", NAME), ACCOUNT))
    assert ACCOUNT.secret not in shown
    assert ACCOUNT.key_id not in shown


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://example.org"},
        {"url": "ftp://example.org"},
        {"url": "https://user:word@example.org"},
        {"url": "https://example.org/path"},
        {"url": "https://example.org?x=1"},
        {"url": "https://example.org:99999"},
        {"url": "https://"},
        {"bucket": "B"},
        {"bucket": "a..b"},
        {"prefix": "/a"},
        {"prefix": "a/../b"},
        {"prefix": "./a"},
        {"prefix": "a?b"},
        {"region": "here and there"},
    ],
)
def test_places_that_are_none(wrong: dict[str, str]) -> None:
    """A store's place is checked when it is named; plain http leaves this machine nowhere."""
    with pytest.raises(UsageError) as caught:
        Place(**{"url": "https://s3.example.org", "bucket": NAME, **wrong})
    assert caught.value.code == "store_invalid"


@pytest.mark.parametrize("data", [b"", b"[]", b'{"key_id": "a"}', b'{"key_id": "a", "secret": 1}', b'{"key_id": "a", "secret": "b\\n"}',
                                  b'{"key_id": "a", "secret": "b", "more": "c"}'])  # fmt: skip
def test_credentials_of_another_form(data: bytes) -> None:
    """Refused without a word of what was read."""
    with pytest.raises(UsageError) as caught:
        Credentials.decode(data)
    assert caught.value.code == "store_invalid"
