"""Entries, and the salted leaves that commit to them.

The ledger is public in its shape and secret in its content: a leaf is a commitment under a random salt, so only those to
whom the manager shows entry and salt can read it. Each agreement's entries form a chain by `previous`, so its parties
can tell that none was left out between two that they saw.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perunml.ledger.codes import BAD_LEAF, BROKEN_CHAIN
from perunml.ledger.merkle import leaf_hash
from perunml.wire.canonical import canonical
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import parse_digest
from perunml.wire.errors import refuse
from perunml.wire.timestamps import format_time, parse_time

SALT_SIZE = 32
MAX_ENTRY = 256 * 1024
"""Largest entry in canonical form, in bytes: an agreement of 50 assets has 30 KiB."""
_TYPE = re.compile(r"[a-z][a-z0-9-]{0,39}")
_LABEL = b"perunml/leaf"
_MEMBERS = {"type", "time", "agreement", "subject", "body", "previous"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened. `type` as listed in docs/spec/ledger.md; `time` in seconds since the epoch; `agreement` its
    digest or "" for what belongs to none; `subject` names whom or what it is about (a run, machine, asset, key);
    `body` is JSON; `previous` is the `entry_hash` of the agreement's previous entry, "" for its first."""

    type: str
    time: int
    agreement: str
    subject: str
    body: Mapping[str, Any]
    previous: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "time": format_time(self.time),
            "agreement": self.agreement,
            "subject": self.subject,
            "body": dict(self.body),
            "previous": self.previous,
        }

    @classmethod
    def from_json(cls, data: Any) -> Entry:
        """Raises `UsageError` (malformed) for unknown, missing or ill-formed members."""
        if not isinstance(data, dict) or set(data) != _MEMBERS:
            raise refuse(MALFORMED, "not a ledger entry", expected=", ".join(sorted(_MEMBERS)))
        texts = (data["type"], data["agreement"], data["subject"], data["previous"])
        if not all(isinstance(text, str) for text in texts) or not isinstance(data["body"], dict):
            raise refuse(MALFORMED, "a member of a ledger entry has a wrong type")
        if not _TYPE.fullmatch(data["type"]):
            raise refuse(MALFORMED, "not an entry's type", seen=data["type"])
        for name in ("agreement", "previous"):
            if data[name]:
                parse_digest(data[name])
        return cls(
            data["type"], parse_time(data["time"]), data["agreement"], data["subject"], data["body"], data["previous"]
        )


@dataclass(frozen=True, slots=True)
class OpenedEntry:
    """An entry as it is shown to a party: its leaf at `index`, and what opens it."""

    index: int
    leaf: bytes
    salt: bytes
    entry: Entry


def entry_data(entry: Entry) -> bytes:
    """The entry in canonical form. Raises `UsageError` (malformed) for one that has none, or is too large."""
    try:
        Entry.from_json(body := entry.as_json())
        data = canonical(body)
    except ValueError as exc:
        raise refuse(MALFORMED, f"the entry has no canonical form: {exc}") from None
    if len(data) > MAX_ENTRY:
        raise refuse(MALFORMED, "the entry is too large", expected=f"{MAX_ENTRY} bytes", seen=f"{len(data)} bytes")
    return data


def leaf_of(data: bytes, salt: bytes) -> bytes:
    """The leaf that commits to `entry_data`: canonical ``{"commitment": "sha256:…", "v": 1}``. `salt` has 32 random bytes
    and is used once."""
    if len(salt) != SALT_SIZE:
        raise ValueError("a leaf's salt has 32 bytes")
    # Label and salt have fixed lengths, so the joined bytes can be read in one way only.
    commitment = hashlib.sha256(_LABEL + salt + data).hexdigest()
    return b'{"commitment":"sha256:%s","v":1}' % commitment.encode("ascii")


def leaf_data(entry: Entry, salt: bytes) -> bytes:
    """`leaf_of` an entry's `entry_data`. Raises `UsageError` (malformed)."""
    return leaf_of(entry_data(entry), salt)


def open_leaf(leaf: bytes, entry: Entry, salt: bytes) -> None:
    """Raises `IntegrityError` (bad_leaf) unless `leaf` commits to `entry` under `salt`."""
    open_data(leaf, entry_data(entry), salt)


def open_data(leaf: bytes, data: bytes, salt: bytes) -> None:
    """`open_leaf` for whoever holds the entry's canonical form already. Raises `IntegrityError` (bad_leaf)."""
    if len(salt) != SALT_SIZE or len(data) > MAX_ENTRY or not hmac.compare_digest(leaf_of(data, salt), leaf):
        shown = data[:200].decode("utf-8", "replace")
        raise refuse(BAD_LEAF, "the leaf does not commit to this entry", seen=shown)


def entry_hash(leaf: bytes) -> str:
    """``sha256:<hex>`` of the leaf's RFC 6962 hash: how the next entry's `previous`, and receipts, name it."""
    return "sha256:" + leaf_hash(leaf).hex()


def verify_chain(agreement: str, shown: Iterable[OpenedEntry], *, previous: str = "", after: int = -1) -> str:
    """Check that `shown` are consecutive entries of `agreement`, in order, each under its leaf; return the last one's
    `entry_hash` (`previous` when there are none). `previous` and `after` are the hash and index that the caller has seen
    last. Raises `IntegrityError` (bad_leaf, broken_chain). That nothing was left off at the end only the manager's
    newest entry tells; ask again, and the chain shows it."""

    def opened() -> Iterator[OpenedEntry]:
        for item in shown:
            open_leaf(item.leaf, item.entry, item.salt)
            yield item

    return verify_links(agreement, opened(), previous=previous, after=after)


def verify_links(agreement: str, opened: Iterable[OpenedEntry], *, previous: str = "", after: int = -1) -> str:
    """`verify_chain` for entries whose leaves were opened before. Raises `IntegrityError` (broken_chain)."""
    for item in opened:
        if item.entry.agreement != agreement:
            raise refuse(
                BROKEN_CHAIN,
                f"entry {item.index} is another agreement's",
                expected=agreement,
                seen=item.entry.agreement,
            )
        if item.index <= after:
            raise refuse(BROKEN_CHAIN, "entries out of order", expected=f"above {after}", seen=str(item.index))
        if item.entry.previous != previous:
            raise refuse(
                BROKEN_CHAIN, f"entry {item.index} does not follow", expected=previous, seen=item.entry.previous
            )
        previous, after = entry_hash(item.leaf), item.index
    return previous
