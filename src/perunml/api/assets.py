"""Sealed assets: POST /v1/assets, PUT and GET /v1/assets/{digest}/blobs/{blob}, GET /v1/assets/{digest}."""

from __future__ import annotations

from perunml.api.base import Document, Message, Signed

PART_SIZE = 8 * 1024 * 1024
"""Most bytes of a blob in one PUT or GET."""


class PushAsset(Message):
    """A manifest and its wrapped keys. Pushing again replaces the wraps, never the manifest."""

    manifest: Signed
    keys: Document  # sealing.keys.WrappedKeys, with a wrap for the manager's intake key


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


class PushDocument(Message):
    """A signed document that agreements name by digest (a Baseline): POST /v1/documents."""

    document: Signed


class DocumentView(Message):
    digest: str
    kind: str
