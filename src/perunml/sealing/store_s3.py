"""Blobs in an S3-compatible bucket: ``<prefix>/<asset, 64 hex digits>/blobs/<id>``, the layout of a folder.

What a bucket says is never believed: readers check tags and the Merkle tree, and a part that comes short is refused here. Faults that
pass by (a broken connection, a 5xx, an answer cut off) are tried again, a bounded number of times; then they are a refusal.
No text of the service or of its client's errors is handed on: they hold addresses, and those may be keys (presigned).
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from perunml.sealing.addressed import is_loopback
from perunml.sealing.codes import (
    BLOB_EXISTS,
    BLOB_MISSING,
    BLOB_TRUNCATED,
    STORE_INVALID,
    STORE_REFUSED,
    STORE_UNREACHABLE,
    STORE_UNSUPPORTED,
)
from perunml.sealing.store import disk_full
from perunml.wire.canonical import load_json
from perunml.wire.digests import parse_digest
from perunml.wire.errors import PerunError, refuse

if TYPE_CHECKING:
    from obstore.store import S3Store as Client

T = TypeVar("T")
TRIES = 5
"""Times that one request is made."""
FIRST_PAUSE = 0.1
"""Seconds before the second try; each next pause is twice as long."""
CONNECT_TIME = timedelta(seconds=5)
ANSWER_TIME = timedelta(seconds=60)
"""For one request, a part of a large blob included."""
SINGLE = 64 * 2**20
"""Bytes up to which a blob is put with one request, which alone can be told not to replace anything (If-None-Match)."""
PART = 16 * 2**20
"""Bytes of a part of a larger one: 10,000 parts, which is S3's bound, are 160 GiB; past that parts grow."""
MAX_PARTS = 10_000
_READ_BACK = 8 * 2**20
_AWAY = re.compile(r"NoSuchBucket|status code: 40[13]\b")
"""In the client's words for an answer by a bucket that is not there, or does not let in; a listing that fails so has no class of its own."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"([A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*)?")
_REGION = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is. Raises `UsageError` (store_invalid)."""

    url: str
    bucket: str
    prefix: str = ""
    region: str = "us-east-1"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        try:
            plain = parts.scheme == "http" and parts.hostname is not None and is_loopback(parts.hostname)
            port = parts.port
        except ValueError:
            plain, port = False, 0
        # An address with a signature in it is a key: it travels under TLS.
        if not (parts.scheme == "https" or plain) or not parts.hostname or port == 0 or parts.username is not None or (
            parts.path.strip("/") or parts.query or parts.fragment
        ):  # fmt: skip
            raise refuse(STORE_INVALID, "not a store's address", expected="https://host[:port]")
        for what, form, text in (("bucket", _BUCKET, self.bucket), ("prefix", _PREFIX, self.prefix), ("region", _REGION, self.region)):  # fmt: skip
            if not form.fullmatch(text) or {".", ".."} & set(text.split("/")) or ".." in text or len(text) > 500:
                raise refuse(STORE_INVALID, f"not a {what}", seen=text)

    def as_json(self) -> dict[str, Any]:
        return {"url": self.url, "bucket": self.bucket, "prefix": self.prefix, "region": self.region}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of a service account of the store; `repr` shows none."""

    key_id: str = field(repr=False)
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)

    @classmethod
    def decode(cls, data: bytes) -> Credentials:
        """JSON ``{"key_id": …, "secret": …}``, and a "token" where the service wants one. Raises `UsageError` (store_invalid)."""
        try:
            found = load_json(data, limit=64 * 1024)
        except PerunError:
            found = None
        if not isinstance(found, dict) or not {"key_id", "secret"} <= set(found) <= {"key_id", "secret", "token"}:
            raise refuse(STORE_INVALID, "not a file of credentials", expected='JSON {"key_id": …, "secret": …}')
        if not all(isinstance(text, str) and text.isascii() and text.isprintable() for text in found.values()):
            raise refuse(STORE_INVALID, "credentials are printable text")
        return cls(**found)

    def as_json(self) -> dict[str, str]:
        return {"key_id": self.key_id, "secret": self.secret, "token": self.token}


class S3Store:
    """One asset's blobs (`asset` is its digest), or with "" those directly under the prefix."""

    def __init__(
        self, place: Place, credentials: Credentials, asset: str = "", *, tries: int = TRIES,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.place = place
        self._client = _client(place, credentials)
        self._folder = f"{parse_digest(asset).hex()}/blobs/" if asset else "blobs/"
        self._tries = tries
        self._pause = pause

    def of(self, asset: str) -> S3Store:
        """The same store for another asset."""
        made = S3Store.__new__(S3Store)
        made.__dict__.update(self.__dict__, _folder=f"{parse_digest(asset).hex()}/blobs/")
        return made

    def __repr__(self) -> str:
        return f"<S3Store {self.place.bucket}/{self.place.prefix}>"

    def read(self, blob_id: str, offset: int, buffer: memoryview) -> None:
        """As `BlobSource`. Raises `IntegrityError` (blob_missing, blob_truncated), `Unreachable` (store_unreachable, store_refused)."""
        import obstore

        if not buffer:
            return

        def get() -> None:
            found = obstore.get_range(self._client, self._path(blob_id), start=offset, end=offset + len(buffer))
            if len(found) != len(buffer):
                # The service answers with what there is; so it is either shorter than it should be, or was cut off.
                raise refuse(BLOB_TRUNCATED, f"blob {blob_id} ends before byte {offset + len(buffer)}")
            buffer[:] = memoryview(found)

        try:
            self._insist(get, blob_id)
        except PerunError as exc:
            if exc.code == STORE_UNREACHABLE.code and self.size(blob_id) < offset + len(buffer):
                raise refuse(BLOB_TRUNCATED, f"blob {blob_id} ends before byte {offset + len(buffer)}") from None
            raise

    def size(self, blob_id: str) -> int:
        """Ciphertext bytes. Raises as `read`."""
        import obstore

        return int(self._insist(lambda: obstore.head(self._client, self._path(blob_id)), blob_id)["size"])

    @contextmanager
    def create(self, blob_id: str) -> Iterator[BinaryIO]:
        """As `BlobSink`: what is written is gathered in a temporary file (ciphertext, no name) and sent at the end, so that a sealing that
        fails leaves nothing in the bucket. Raises `IntegrityError` (blob_exists), `LimitReached` (disk_full), `Unreachable`."""
        with disk_full(), tempfile.TemporaryFile() as file:
            yield file
            file.flush()
            size = file.tell()
            if size <= SINGLE:
                file.seek(0)
                self._put(blob_id, file.read())
            else:
                self._put_large(blob_id, file, size)

    def discard(self, blob_id: str) -> None:
        import obstore

        try:
            self._insist(lambda: obstore.delete(self._client, self._path(blob_id)), blob_id)
        except PerunError as exc:
            if exc.code != BLOB_MISSING.code:
                raise

    def sign(self, method: str, blob_ids: Sequence[str], seconds: int) -> dict[str, str]:
        """By blob an address that lets whoever has it make this one request (GET or PUT) for that many seconds, and nothing else.
        Asks nobody. An address is a secret: it goes into no log and no error."""
        import obstore

        paths = [self._path(blob_id) for blob_id in blob_ids]
        signed = obstore.sign(self._client, "PUT" if method == "PUT" else "GET", paths, timedelta(seconds=seconds))
        return dict(zip(blob_ids, signed, strict=True))

    def _put(self, blob_id: str, data: bytes) -> None:
        import obstore

        failed = False

        def put() -> None:
            nonlocal failed
            try:
                obstore.put(self._client, self._path(blob_id), data, mode="create")
            except obstore.exceptions.AlreadyExistsError:
                # After a try whose answer was lost it may be our own.
                if failed and self._holds(blob_id, hashlib.sha256(data).digest(), len(data)):
                    return
                raise refuse(BLOB_EXISTS, f"blob {blob_id} is there already") from None
            except obstore.exceptions.BaseError:
                failed = True
                raise

        self._insist(put, blob_id)

    def _put_large(self, blob_id: str, file: BinaryIO, size: int) -> None:
        import obstore

        part = max(PART, -(-size // (MAX_PARTS - 1)))

        def put() -> None:
            if self._there(blob_id):
                raise refuse(BLOB_EXISTS, f"blob {blob_id} is there already")
            file.seek(0)
            obstore.put(self._client, self._path(blob_id), file, use_multipart=True, chunk_size=part, max_concurrency=4)

        self._insist(put, blob_id)
        if (got := self.size(blob_id)) != size:
            raise refuse(BLOB_TRUNCATED, f"blob {blob_id} was not kept whole", expected=str(size), seen=str(got))

    def _there(self, blob_id: str) -> bool:
        try:
            self.size(blob_id)
        except PerunError as exc:
            if exc.code == BLOB_MISSING.code:
                return False
            raise
        return True

    def _holds(self, blob_id: str, digest: bytes, size: int) -> bool:
        if self.size(blob_id) != size:
            return False
        found, buffer = hashlib.sha256(), memoryview(bytearray(min(size, _READ_BACK)))
        for offset in range(0, size, _READ_BACK):
            part = buffer[: min(_READ_BACK, size - offset)]
            self.read(blob_id, offset, part)
            found.update(part)
        return found.digest() == digest

    def _path(self, blob_id: str) -> str:
        return self._folder + blob_id

    def _insist(self, ask: Callable[[], T], blob_id: str) -> T:
        """What `ask` gives, asked again after faults that pass by."""
        import obstore.exceptions as errors

        for attempt in range(self._tries):
            if attempt:
                self._pause(FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                return ask()
            except (FileNotFoundError, errors.NotFoundError) as exc:
                if _AWAY.search(str(exc)):
                    raise self._refused() from None
                self._look()
                raise refuse(BLOB_MISSING, f"blob {blob_id} is not in the store") from None
            except (PermissionError, errors.PermissionDeniedError, errors.UnauthenticatedError):
                raise self._refused() from None
            except (errors.BaseError, OSError) as exc:
                if _AWAY.search(str(exc)):
                    raise self._refused() from None
        raise refuse(STORE_UNREACHABLE, "the bucket's service failed", seen=f"{self._tries} tries") from None

    def _look(self) -> None:
        """HEAD has no body, so that a bucket which is gone answers as one that lacks a blob; a listing tells."""
        import obstore.exceptions as errors

        try:
            next(iter(self._client.list(prefix=self._folder, chunk_size=1)), None)
        except (errors.BaseError, OSError) as exc:
            if _AWAY.search(str(exc)):
                raise self._refused() from None
            return  # not every account may list; then the blob is what is missing

    def check(self) -> None:
        """Whether the bucket is there and lets this account in. Raises `Unreachable` (store_unreachable, store_refused)."""

        self._insist(lambda: next(iter(self._client.list(prefix=self._folder, chunk_size=1)), None), "")

    def _refused(self) -> PerunError:
        return refuse(STORE_REFUSED, f"the bucket {self.place.bucket} is not there, or does not let this account in")


def _client(place: Place, credentials: Credentials) -> Client:
    try:
        from obstore.store import S3Store as Client
    except ImportError:
        raise refuse(STORE_UNSUPPORTED, "obstore is not installed", command="pip install 'perunml[s3]'") from None
    options: dict[str, Any] = {"token": credentials.token} if credentials.token else {}
    return Client(
        place.bucket,
        prefix=place.prefix or None,
        endpoint=place.url.rstrip("/"),
        region=place.region,
        access_key_id=credentials.key_id,
        secret_access_key=credentials.secret,
        virtual_hosted_style_request=False,
        client_options={
            "allow_http": place.url.startswith("http://"),
            "connect_timeout": CONNECT_TIME,
            "timeout": ANSWER_TIME,
        },
        retry_config={"max_retries": 0},  # tries are counted here
        **options,
    )
