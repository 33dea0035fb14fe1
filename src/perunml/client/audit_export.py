"""Exporting a ledger for an audit: one zip that any C2SP reader can walk, and what this party may open of it.

checkpoint                  the newest signed note
tile/<L>/<N>, tile/entries  C2SP tlog-tiles, of the whole ledger
perunml/entries.jsonl       {index, salt, entry}: the entries of this party's agreements
perunml/documents.jsonl     envelopes of what those entries name, and receipts
perunml/cosignatures.jsonl  {key, size, line}: what the agreements' witnesses cosigned, each size once
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from perunml.api.ledger import CosignatureList, EntryList, EntryView
from perunml.client.audit import fresh_checkpoint
from perunml.client.connection import Connection
from perunml.client.home import Home
from perunml.ledger.checkpoint import Checkpoint, open_checkpoint
from perunml.ledger.codes import BAD_CHECKPOINT
from perunml.ledger.tiles import parse_bundle, tile
from perunml.ledger.whole import Whole, bundle_paths, tile_paths
from perunml.wire.canonical import canonical
from perunml.wire.encoding import b64
from perunml.wire.errors import AgreementRefusal, refuse
from perunml.wire.identity import PublicKey

CHECKPOINT = "checkpoint"
ENTRIES, DOCUMENTS, COSIGNATURES = (f"perunml/{name}.jsonl" for name in ("entries", "documents", "cosignatures"))
MAX_BUNDLE = 256 * (2 + 65535)
"""Bytes of a whole bundle of the longest leaves (C2SP tlog-tiles)."""

Progress = Callable[[int, int], None]
"""Bytes of leaves fetched so far, and in all."""


def export(
    connection: Connection, home: Home, agreements: Iterable[str], target: Path, progress: Progress = lambda *_: None
) -> Checkpoint:
    """Write the ledger, and all that this party may read of `agreements` (digests), to the new file `target`. Raises `IntegrityError` when
    the ledger is not what its checkpoint says, `FileExistsError`."""
    fresh_checkpoint(connection, home)
    note = home.checkpoint_path(connection.pin).read_bytes()  # another command of this party may have moved it on
    checkpoint = open_checkpoint(note.decode(), PublicKey(connection.pin.identity))
    with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as archive:
        try:
            archive.writestr(CHECKPOINT, note)
            _tree(connection, archive, checkpoint, progress)
            _opened(connection, archive, checkpoint, agreements)
        except BaseException:
            target.unlink()  # half an export proves nothing
            raise
    return checkpoint


def _tree(connection: Connection, archive: zipfile.ZipFile, checkpoint: Checkpoint, progress: Progress) -> None:
    whole = Whole(_leaves(connection, archive, checkpoint.size, progress))
    if whole.tree.root() != checkpoint.root:
        raise refuse(
            BAD_CHECKPOINT, "the leaves that the manager sends do not give its checkpoint's root",
            expected=checkpoint.root.hex(), seen=whole.tree.root().hex(),
        )  # fmt: skip
    for path in tile_paths(whole.size):
        archive.writestr(str(path), tile(whole, path, whole.size))


def _opened(
    connection: Connection, archive: zipfile.ZipFile, checkpoint: Checkpoint, agreements: Iterable[str]
) -> None:
    documents: dict[bytes, None] = {}
    entries: list[EntryView] = []
    # A proposal that names this party's key no more is listed, for its board is asked; its entries are not this party's.
    names = [name for name in dict.fromkeys(agreements) if _shown(connection, name)]
    for name in names:  # which grows
        for page in _pages(connection, name):
            entries += [item for item in page.entries if item.index < checkpoint.size]
            documents |= dict.fromkeys(envelope.encode() for envelope in page.documents)
            names += [found for found in _before(page) if found not in names and _shown(connection, found)]
    entries.sort(key=lambda item: item.index)
    _lines(archive, ENTRIES, (_entry(item) for item in entries))
    archive.writestr(DOCUMENTS, b"".join(line + b"\n" for line in documents))
    _lines(archive, COSIGNATURES, _cosignatures(connection, names, checkpoint.size))


def _leaves(connection: Connection, archive: zipfile.ZipFile, size: int, progress: Progress) -> Iterator[bytes]:
    done = 0
    for path in bundle_paths(size):
        data = connection.raw("GET", f"/v1/ledger/{path}", limit=MAX_BUNDLE)
        archive.writestr(str(path), data)
        leaves = parse_bundle(data, path.width)
        done += len(data)
        progress(done, len(data) // path.width * size)  # leaves have one length
        yield from leaves


def _pages(connection: Connection, agreement: str) -> Iterator[EntryList]:
    after = -1
    while True:
        where = f"/v1/ledger/entries?agreement={quote(agreement)}&documents=1"
        page = connection.call("GET", where + (f"&after={after}" if after >= 0 else ""), EntryList)
        if not page.entries:
            return
        yield page
        after = page.entries[-1].index


def _before(page: EntryList) -> Iterator[str]:
    """Versions before: a party's new key is not named by them, and may read them all the same."""
    for item in page.entries:
        body = item.entry.get("body")
        before = body.get("predecessor") if item.entry.get("type") == "agreement" and isinstance(body, dict) else None
        if isinstance(before, str) and before:
            yield before


def _shown(connection: Connection, agreement: str) -> bool:
    try:
        next(_pages(connection, agreement), None)
    except AgreementRefusal:
        return False
    return True


def _entry(item: EntryView) -> dict[str, Any]:
    return {"index": item.index, "salt": b64(item.salt), "entry": item.entry}


def _cosignatures(connection: Connection, agreements: list[str], size: int) -> Iterator[dict[str, Any]]:
    """What was cosigned meanwhile is of another export."""
    told = set()
    for name in agreements:
        after, where = 0, f"/v1/ledger/cosignatures?agreement={quote(name)}&after="
        while True:
            found = connection.call("GET", f"{where}{after}", CosignatureList)
            for item in found.cosignatures:
                if item.size <= size and (item.key, item.size) not in told:
                    told.add((item.key, item.size))
                    yield {"key": item.key, "size": item.size, "line": item.line}
            if found.after <= after:
                break
            after = found.after


def _lines(archive: zipfile.ZipFile, name: str, values: Iterable[dict[str, Any]]) -> None:
    with archive.open(name, "w") as file:
        for value in values:
            file.write(canonical(value) + b"\n")
