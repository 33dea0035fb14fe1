"""Verifying an export offline: the tree, the chains, every signature, and every decision made again.

Nothing is believed but the pinned manager's key, its times, and what it says that hosts proved.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from perunml.api.pin import Pin
from perunml.client.audit import Known, kept_receipts, known_chains, seen_checkpoint
from perunml.client.audit_export import CHECKPOINT, COSIGNATURES, DOCUMENTS, ENTRIES
from perunml.client.codes import WRONG_DOCUMENT
from perunml.client.home import Home
from perunml.ledger.checkpoint import Checkpoint, open_checkpoint, origin
from perunml.ledger.codes import BAD_CHECKPOINT, BAD_RECEIPT, BAD_TILE, BROKEN_CHAIN, LEDGER_ROLLBACK, SPLIT_VIEW
from perunml.ledger.entries import Entry, OpenedEntry, entry_hash, open_data, verify_links
from perunml.ledger.receipts import KIND as RECEIPT
from perunml.ledger.receipts import Receipt, open_receipt
from perunml.ledger.tiles import parse_bundle, tile
from perunml.ledger.whole import Whole, bundle_paths, tile_paths
from perunml.ledger.witnessing import open_cosigned
from perunml.release.replay import History, replay
from perunml.wire.canonical import load_canonical
from perunml.wire.dsse import Envelope
from perunml.wire.encoding import unb64
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey

MAX_NOTE = 64 * 1024
MAX_LINE = 4 * 1024 * 1024
"""Bytes of one line: an agreement's envelope has at most 2 MiB, half as much again in base64."""
MAX_FILE = 8 * 2**30
"""Bytes of one file of an export: ten million entries of the usual size."""
MAX_TILE = 256 * (2 + 65535)


T = TypeVar("T")
# What zipfile raises for a file that is not whole, or encrypted: it promises none of them.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A witness's newest word: its key, how many entries it saw, when (by its own clock, seconds since 1970)."""

    key: str
    size: int
    time: int


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What was verified. `counts` by kind; `unchecked` says what this party's documents cannot tell."""

    size: int
    root: str
    agreements: Mapping[str, int]
    counts: Mapping[str, int]
    witnesses: tuple[Cosigned, ...]
    unchecked: tuple[str, ...]


def verify_export(
    source: Path,
    manager: PublicKey,
    *,
    seen: Checkpoint | None = None,
    known: Mapping[str, Known] | None = None,
    receipts: tuple[Receipt, ...] = (),
) -> AuditReport:
    """Everything that an export (the zip, or the folder that it was unpacked to) proves about the ledger of `manager`; it must contain the
    checkpoint that was `seen` before, of each agreement in it the newest entry that was `known`, and what `receipts` say. Raises `IntegrityError` for the first inconsistency: of the tree
    (bad_checkpoint, bad_tile, ledger_rollback, split_view), of an agreement's chain (bad_leaf, broken_chain), of a cosignature (bad_signature), or of
    what was decided (history_inconsistent)."""
    with _Files(source) as files:
        checkpoint = open_checkpoint(files.read(CHECKPOINT, MAX_NOTE).decode("utf-8", "replace"), manager)
        leaves = [
            leaf
            for path in bundle_paths(checkpoint.size)
            for leaf in parse_bundle(files.read(str(path), MAX_TILE), path.width)
        ]
        whole = _tree(files, leaves, checkpoint)
        if seen is not None:
            _contains(whole, seen)
        entries = list(_entries(files, leaves))
        documents, found_receipts = _documents(files)
        cosigned = list(_cosigned(files, whole, manager))
    counts: dict[str, int] = {}
    chains: dict[str, list[OpenedEntry]] = {}
    for item in entries:
        chains.setdefault(item.entry.agreement, []).append(item)
    for agreement, chain in chains.items():
        verify_links(agreement, chain)
        counts[agreement] = len(chain)
    for agreement, before in (known or {}).items():
        if agreement in chains:  # another party's export has not got all of this one's agreements
            _not_cut(agreement, before, chains[agreement])
    for receipt in receipts:
        _recorded(receipt, leaves, found_receipts.get(receipt.run), manager)
    words: dict[str, list[tuple[int, int]]] = {}
    newest: dict[str, Cosigned] = {}
    for found in cosigned:
        words.setdefault(found.key, []).append((found.size, found.time))
        if found.key not in newest or newest[found.key].size < found.size:
            newest[found.key] = found
    replayed = replay(History(entries, documents, found_receipts, manager, words))
    witnesses = tuple(newest[key] for key in sorted(newest))
    return AuditReport(checkpoint.size, checkpoint.root.hex(), counts, replayed.counts, witnesses, replayed.unchecked)


def verify_at_home(source: Path, home: Home, pin: Pin) -> AuditReport:
    """`verify_export` against the pinned manager, and what this home keeps: the ledger as it saw it last, its agreements' entries as
    it checked them last, and receipts."""
    receipts = tuple(kept_receipts(home, pin))
    seen, known = seen_checkpoint(home, pin), known_chains(home, pin)
    return verify_export(source, PublicKey(pin.identity), seen=seen, known=known, receipts=receipts)


def _tree(files: _Files, leaves: list[bytes], checkpoint: Checkpoint) -> Whole:
    whole = Whole(leaves)
    if whole.tree.root() != checkpoint.root:
        raise refuse(
            BAD_CHECKPOINT, "the leaves do not give the checkpoint's root", expected=checkpoint.root.hex(),
            seen=whole.tree.root().hex(),
        )  # fmt: skip
    for path in tile_paths(whole.size):
        if files.read(str(path), MAX_TILE) != tile(whole, path, whole.size):
            raise refuse(BAD_TILE, "a tile does not follow from the leaves", seen=str(path))
    return whole


def _contains(whole: Whole, seen: Checkpoint) -> None:
    if seen.size > whole.size:
        raise refuse(
            LEDGER_ROLLBACK, "the ledger lost entries since this party looked, or the export is older than that look",
            expected=f"{seen.size} or more", seen=f"{whole.size} entries",
        )  # fmt: skip
    if whole.tree.root(seen.size) != seen.root:
        raise refuse(SPLIT_VIEW, f"two histories of {seen.size} entries", expected=seen.root.hex())


def _entries(files: _Files, leaves: list[bytes]) -> Iterator[OpenedEntry]:
    """Each entry under its leaf. A line is canonical, so the entry's own canonical form is what stands in it: nothing is written anew."""
    last = -1
    for data, line in files.lines(ENTRIES):
        if set(line) != {"index", "salt", "entry"} or type(line["index"]) is not int:
            raise refuse(WRONG_DOCUMENT, "not an entry of an export", expected="index, salt, entry")
        index = line["index"]
        if not last < index < len(leaves):
            raise refuse(
                BROKEN_CHAIN, "entries out of order, or outside the ledger", expected=f"above {last}", seen=str(index)
            )
        last = index
        salt, entry = unb64(line["salt"]), Entry.from_json(line["entry"])
        open_data(leaves[index], data[len(b'{"entry":') : data.rindex(b',"index":')], salt)
        yield OpenedEntry(index, leaves[index], salt, entry)


def _documents(files: _Files) -> tuple[dict[str, list[Envelope]], dict[str, Envelope]]:
    documents: dict[str, list[Envelope]] = {}
    receipts: dict[str, Envelope] = {}
    for _, line in files.lines(DOCUMENTS):
        envelope = Envelope.from_json(line)
        documents.setdefault(envelope.digest, []).append(envelope)
        try:
            receipts[str(envelope.unverified(RECEIPT)["run"])] = envelope
        except (PerunError, KeyError):
            continue  # another kind of document
    return documents, receipts


def _cosigned(files: _Files, whole: Whole, manager: PublicKey) -> Iterator[Cosigned]:
    for _, line in files.lines(COSIGNATURES):
        key, size, text = line.get("key"), line.get("size"), line.get("line")
        if (
            not isinstance(key, str)
            or type(size) is not int
            or not isinstance(text, str)
            or not 0 <= size <= whole.size
        ):
            raise refuse(BAD_CHECKPOINT, "not a cosignature of this ledger", seen=str(key))
        note = f"{Checkpoint(origin(manager), size, whole.tree.root(size)).text}\n{text}"  # a line has its end
        yield Cosigned(key, size, open_cosigned(note, PublicKey(key)).time)


def _not_cut(agreement: str, before: Known, chain: Sequence[OpenedEntry]) -> None:
    """A chain shows what was left out in it, not what was left off at its end: that shows who saw more before."""
    if before.count and not any(item.index == before.index and entry_hash(item.leaf) == before.hash for item in chain):
        raise refuse(
            BROKEN_CHAIN, f"the export lacks entries of {agreement} that this party saw before",
            expected=f"entry {before.index}", seen=f"{len(chain)} entries",
        )  # fmt: skip


def _recorded(receipt: Receipt, leaves: list[bytes], shown: Envelope | None, manager: PublicKey) -> None:
    """The ledger holds the entry of a receipt that this party has, and the manager signed no other receipt of its run."""
    if shown is not None and open_receipt(shown, manager) != receipt:
        raise refuse(BAD_RECEIPT, f"the manager signed two receipts of run {receipt.run}", seen="another in the export")
    index = receipt.entry_index
    if index >= len(leaves) or entry_hash(leaves[index]) != receipt.entry_hash:
        raise refuse(
            LEDGER_ROLLBACK, f"the ledger does not hold the receipt of run {receipt.run}", expected=receipt.entry_hash
        )


class _Files:
    """The files of an export, in a zip or in a folder."""

    def __init__(self, source: Path) -> None:
        self._folder = source if source.is_dir() else None
        try:
            self._zip = None if self._folder else zipfile.ZipFile(source)
        except _DAMAGE:
            raise refuse(WRONG_DOCUMENT, f"{source} is no export", expected="a zip, or a folder") from None

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def _open(self, name: str) -> Any:
        try:
            if self._zip is None:
                return (self._folder or Path()).joinpath(name).open("rb")
            found = self._zip.getinfo(name)
        except (KeyError, OSError):
            raise refuse(BAD_TILE, "the export lacks a file", expected=name, seen="nothing") from None
        if found.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refuse(
                WRONG_DOCUMENT, f"{name} is packed in another way", expected="stored or deflated",
                seen=f"method {found.compress_type}",
            )  # fmt: skip
        return self._damaged(name, lambda: cast(zipfile.ZipFile, self._zip).open(found))

    def read(self, name: str, most: int) -> bytes:
        """The whole file, of `most` bytes at most."""
        with self._open(name) as file:
            return self._within(name, file, most)

    def lines(self, name: str) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Each line, a JSON object in canonical form: as it stands, without its end, and read."""
        total = 0
        with self._open(name) as file:
            while line := self._damaged(name, lambda: file.readline(MAX_LINE + 1)):
                total += len(line)
                if len(line) > MAX_LINE or total > MAX_FILE:
                    raise refuse(
                        WRONG_DOCUMENT,
                        f"{name} is too long",
                        expected=f"lines of {MAX_LINE} bytes",
                        seen=f"{total} bytes",
                    )
                line = line.removesuffix(b"\n")
                value = load_canonical(line, limit=MAX_LINE)
                if not isinstance(value, dict):
                    raise refuse(
                        WRONG_DOCUMENT,
                        f"{name} holds no objects",
                        expected="an object a line",
                        seen=type(value).__name__,
                    )
                yield line, value

    def _within(self, name: str, file: Any, most: int) -> bytes:
        data: bytes = self._damaged(name, lambda: file.read(most + 1))
        if len(data) > most:
            raise refuse(BAD_TILE, f"{name} is too long", expected=f"{most} bytes at most", seen="more")
        return data

    @staticmethod
    def _damaged(name: str, read: Callable[[], T]) -> T:
        try:
            data = read()
        except _DAMAGE:
            raise refuse(
                WRONG_DOCUMENT,
                f"{name} of the export is damaged",
                expected="a whole file",
                seen="bytes that do not unpack",
            ) from None
        return data
