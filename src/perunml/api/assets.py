"""Sealed assets: POST /v1/assets, PUT and GET /v1/assets/{digest}/blobs/{blob}, GET /v1/assets/{digest}; POST …/uploads and …/reads
for those whose blobs lie in a bucket."""

from __future__ import annotations

from pydantic import Field

from perunml.api.base import Document, Message, Signed

PART_SIZE = 8 * 1024 * 1024
"""Most bytes of a blob in one PUT or GET."""
MAX_ASKED = 64
"""Blobs for which addresses are asked for at once."""


class PushAsset(Message):
    """A manifest and its wrapped keys. Pushing again replaces the wraps, never the manifest."""

    manifest: Signed
    keys: Document  # sealing.keys.WrappedKeys, with a wrap for the manager's intake key
    store: str = Field(default="", exclude_if=lambda name: not name)  # where the blobs go; "" is the manager's folder


class AssetView(Message):
    """`received` has the bytes the manager holds of each blob; complete when all are whole."""

    asset: str  # sha256:… of the manifest's payload
    name: str
    kind: str
    version: int
    owner: str
    size: int
    complete: bool
    received: dict[str, int]
    store: str = Field(default="", exclude_if=lambda name: not name)


class UploadRequest(Message):
    """Blobs of an asset in a bucket, of which the manager is to see whether they are there; with `replace` those that are give way."""

    blobs: list[str] = Field(min_length=1, max_length=MAX_ASKED)
    replace: bool = False


class ReadRequest(Message):
    """Blobs of an asset in a bucket that a lease's holder wants to read."""

    blobs: list[str] = Field(min_length=1, max_length=MAX_ASKED)


class BlobAddresses(Message):
    """By blob an address that writes, or reads, this one object for `expires_in` seconds: whoever has it may. Of an upload only those that are not
    there."""

    urls: dict[str, str] = Field(repr=False)
    expires_in: int


class PushDocument(Message):
    """A signed document that agreements name by digest (a Baseline): POST /v1/documents."""

    document: Signed


class DocumentView(Message):
    digest: str
    kind: str
