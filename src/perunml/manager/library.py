"""Documents read once: agreements and baselines by digest, and how an agreement stands.

Documents never change, so they are kept. A standing is kept with what it was made from: how many approvals there were, and
when the first of them ends.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from perunml.agreements.approvals import Standing, Version, check_approval, standing_of_line
from perunml.agreements.conditions import Condition, ConditionChange, fold_conditions, read_change
from perunml.agreements.document import agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.evidence.baseline import Baseline
from perunml.evidence.compiled import load_compiled
from perunml.manager.codes import NOT_ENTITLED, STATE_DAMAGED
from perunml.manager.keys import Keys
from perunml.manager.store.connection import Connection
from perunml.manager.store.envelopes import stored
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey

MAX_KEPT = 512
"""Documents of each kind kept in memory."""
MAX_BASELINES = 64
"""Baselines kept in memory, of 150 MB for 200,000 files."""
INLINE = 256 * 1024
"""Bytes of a baseline's envelope that are read on the event loop itself: some 2,000 files, 10 ms."""
COMPILED, COMPILED_KIND = "compiled:", "CompiledBaseline"
"""A long baseline's compiled form lies beside its document, under the document's digest after this word."""
_IN_FORCE = "SELECT digest FROM agreements WHERE line = :line AND state = 'in_force'"
_VOTES = (
    "SELECT (SELECT count(*) FROM approvals WHERE agreement IN (SELECT digest FROM agreements WHERE line = :line)) "
    "+ (SELECT count(*) FROM withdrawals WHERE agreement IN (SELECT digest FROM agreements WHERE line = :line))"
)
_SEALER = "SELECT owner FROM assets WHERE digest = :asset AND run = ''"
_BASELINE = "SELECT envelope FROM documents WHERE digest = :digest AND kind = 'Baseline'"
_COMPILED = "SELECT envelope FROM documents WHERE digest = :digest AND kind = 'CompiledBaseline'"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Stored:
    """A baseline as the store has it: its document's envelope, or its compiled form under the manager's key."""

    data: bytes
    compiled: bool


class Unread(Exception):
    """Long baselines that are wanted and not in memory, by digest: read them in a thread, then ask again."""

    def __init__(self, envelopes: Mapping[str, _Stored]) -> None:
        super().__init__(f"{len(envelopes)} baselines to be read")
        self.envelopes = envelopes


class _Kept(Generic[T]):
    def __init__(self, most: int = MAX_KEPT) -> None:
        self._most = most
        self._items: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> T | None:
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key]

    def put(self, key: str, value: T) -> T:
        with self._lock:
            self._items[key] = value
            if len(self._items) > self._most:
                self._items.popitem(last=False)
        return value

    def clear(self) -> None:
        with self._lock:
            self._items.clear()


@dataclass(frozen=True, slots=True)
class Held:
    """An agreement as the store has it. `line` is the digest of its first version."""

    agreement: Agreement
    envelope: Envelope
    line: str
    state: str


@dataclass(frozen=True, slots=True)
class _Stood:
    count: int
    until: float
    standing: Standing


class Library:
    """Reads through a connection; safe for the event loop's thread and the writer's."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._agreements: _Kept[tuple[Agreement, Envelope]] = _Kept()
        self._baselines: _Kept[Baseline] = _Kept(MAX_BASELINES)
        self._standings: _Kept[_Stood] = _Kept()
        self._manifests: _Kept[Envelope] = _Kept()
        self._agreed: _Kept[bool] = _Kept()
        self._signed: _Kept[bool] = _Kept()
        self._sealers: _Kept[str] = _Kept()
        self._conditions: _Kept[dict[str, tuple[Condition, ...]]] = _Kept(2)

    def forget(self) -> None:
        """What was read in a transaction that failed is read anew."""
        for kept in (self._agreements, self._baselines, self._standings, self._manifests, self._agreed, self._signed):
            kept.clear()
        self._sealers.clear()
        self._conditions.clear()

    def held(self, connection: Connection, digest: str) -> Held:
        """Raises `AgreementRefusal` (not_entitled): there is none."""
        row = connection.run("SELECT line, state FROM agreements WHERE digest = :digest", {"digest": digest}).first()
        if row is None:
            raise refuse(NOT_ENTITLED, "there is nothing here for this caller")
        kept = self._agreements.get(digest)
        if kept is None:
            data = connection.run("SELECT envelope FROM agreements WHERE digest = :digest", {"digest": digest}).scalar()
            kept = self._agreements.put(digest, _read_agreement(digest, data))
        return Held(kept[0], kept[1], row[0], row[1])

    def in_force(self, connection: Connection, line: str) -> Held | None:
        """The version of an agreement (the digest of its first one) that is in force, if one is."""
        digest = connection.run(_IN_FORCE, {"line": line}).scalar()
        return self.held(connection, str(digest)) if digest else None

    def keys_of(self, connection: Connection, held: Held, party: str) -> list[str]:
        """All keys that a party has had in this version and those before it, newest first: what one of them sealed is still the
        party's after it was replaced."""
        found: dict[str, None] = {}
        for agreement in reversed(self._line(connection, held)):
            if party not in agreement.parties:
                break
            found |= dict.fromkeys(agreement.parties[party].keys.values())
        return list(found)

    def still_there(self, connection: Connection, newest: Held, since: str, party: str) -> bool:
        """Whether the party is in every version from `since` (a digest) to `newest`: a name that went and came again is somebody else's."""
        line = [one.digest for one in self._line(connection, newest)]
        return since in line and all(
            party in self.held(connection, digest).agreement.parties for digest in line[line.index(since) :]
        )

    def standing(self, connection: Connection, held: Held, now: int) -> Standing:
        """How far the agreement's approvals are at `now`, and those of the versions before it that it builds on."""
        digest = held.agreement.digest
        count = int(connection.run(_VOTES, {"line": held.line}).scalar() or 0)
        kept = self._standings.get(digest)
        if kept and kept.count == count and now < kept.until:
            return kept.standing
        line = self._line(connection, held)
        versions = [
            Version(found, self.approvals(connection, found.digest), self.withdrawals(connection, found.digest))
            for found in line
        ]
        made = standing_of_line(versions, now)
        ends = []
        for place, version in enumerate(versions):
            predecessor = line[place - 1] if place else None
            for envelope in version.approvals:
                try:
                    ends.append(check_approval(version.agreement, envelope, now, predecessor=predecessor).expires)
                except PerunError:
                    continue  # it does not count, so its end changes nothing
        self._standings.put(digest, _Stood(count, min(ends, default=float("inf")), made))
        return made

    def _line(self, connection: Connection, held: Held) -> list[Agreement]:
        """The versions from the first one to this."""
        line = [held.agreement]
        while before := line[-1].metadata.predecessor:
            line.append(self.held(connection, before).agreement)
        return line[::-1]

    def approvals(self, connection: Connection, digest: str) -> list[Envelope]:
        rows = connection.run(
            "SELECT envelope FROM approvals WHERE agreement = :digest ORDER BY rowid", {"digest": digest}
        )
        return [stored(row[0]) for row in rows]

    def withdrawals(self, connection: Connection, digest: str) -> list[Envelope]:
        rows = connection.run(
            "SELECT envelope FROM withdrawals WHERE agreement = :digest ORDER BY rowid", {"digest": digest}
        )
        return [stored(row[0]) for row in rows]

    def manifest(self, connection: Connection, asset: str) -> Envelope:
        """An asset's manifest. Raises `AgreementRefusal` (not_entitled): there is none."""
        kept = self._manifests.get(asset)
        if kept is None:
            data = connection.run("SELECT manifest FROM assets WHERE digest = :digest", {"digest": asset}).scalar()
            if data is None:
                raise refuse(NOT_ENTITLED, "there is nothing here for this caller")
            kept = self._manifests.put(asset, stored(data))
        return kept

    def agreed(self, connection: Connection, held: Held, key: str, party: str) -> bool:
        """Whether `key` itself signed an approval of this version or of one before it, for `party`, which was there ever since. An agreement may
        list any key as a party's, next to a board that this key never heard of: what the key owns is bound by its own word only. A key that
        the party has replaced since keeps its word, and whoever else lists it later neither gains nor takes anything by that."""
        name = f"{held.agreement.digest} {party} {key}"
        if self._agreed.get(name):
            return True
        for found in reversed(self._line(connection, held)):
            if party not in found.parties:
                break
            withdrawn = {
                name
                for envelope in self.withdrawals(connection, found.digest)
                if _signed_by("Withdrawal", envelope, key)
                for name in envelope.unverified("Withdrawal")["approvals"]
            }
            for envelope in self.approvals(connection, found.digest):
                if envelope.digest in withdrawn or not _signed_by("Approval", envelope, key):
                    continue
                body = envelope.unverified("Approval")
                if body.get("agreement") == found.digest and body.get("party") == party:
                    # an approval of what was once in force is never taken away
                    return held.state == "proposed" or self._agreed.put(name, True)
        return False

    def sealer(self, connection: Connection, asset: str) -> str:
        """The key that sealed an asset (its digest) which a party pushed; empty when none is here. It never changes."""
        kept = self._sealers.get(asset)
        if kept is None:
            found = connection.run(_SEALER, {"asset": asset}).scalar()
            return self._sealers.put(asset, str(found)) if found is not None else ""
        return kept

    def vouched(self, connection: Connection, held: Held, name: str) -> bool:
        """Whether the agreement's asset `name` is here, sealed by a key of its owner that itself agreed (as in `agreed`)."""
        asset = held.agreement.assets[name]
        sealer = self.sealer(connection, asset.digest)
        return (
            bool(sealer)
            and sealer in self.keys_of(connection, held, asset.owner)
            and self.agreed(connection, held, sealer, asset.owner)
        )

    def suspended(self, connection: Connection, agreement: Agreement) -> frozenset[str]:
        """Names of the agreement's assets that are suspended."""
        rows = connection.run("SELECT subject FROM suspensions WHERE suspended = 1").all()
        if not rows:
            return frozenset()
        subjects = {row[0] for row in rows}
        return frozenset(name for name, asset in agreement.assets.items() if asset.digest in subjects)

    def conditions(self, connection: Connection, agreement: Agreement) -> dict[str, tuple[Condition, ...]]:
        """Owners' conditions in force on the agreement's assets, by asset name. Changes are only added, so what they amount to is kept
        with how many there were."""
        count = int(connection.run("SELECT count(*) FROM conditions").scalar() or 0)
        if not count:
            return {}
        kept = self._conditions.get(str(count))
        if kept is None:
            changes: dict[str, list[ConditionChange]] = {}
            for row in connection.run("SELECT subject, envelope FROM conditions ORDER BY subject, position"):
                changes.setdefault(row[0], []).append(read_change(stored(row[1])))
            folded = {subject: tuple(fold_conditions(found).now.values()) for subject, found in changes.items()}
            kept = self._conditions.put(str(count), folded)
        return {name: found for name, asset in agreement.assets.items() if (found := kept.get(asset.digest))}

    def baselines(self, connection: Connection, digests: set[str]) -> dict[str, Baseline]:
        """Those of the baselines that are at hand. Raises `Unread`."""
        found: dict[str, Baseline] = {}
        unread: dict[str, _Stored] = {}
        for digest in digests:
            kept = self._baselines.get(digest)
            if kept is None:
                compiled: Any = connection.run(_COMPILED, {"digest": COMPILED + digest}).scalar()
                data: Any = compiled or connection.run(_BASELINE, {"digest": digest}).scalar()
                if data is None:
                    continue
                # more than are kept would drive one another out, and never be at hand together
                if len(data) > INLINE and len(digests) <= MAX_BASELINES // 2:
                    unread[digest] = _Stored(data, compiled is not None)
                    continue
                kept = self._baselines.put(digest, self._read(digest, _Stored(data, compiled is not None)))
            found[digest] = kept
        if unread:
            raise Unread(unread)
        return found

    def baseline_signers(self, connection: Connection, digest: str, keys: Collection[str]) -> frozenset[str]:
        """Those of the `keys` that signed the baseline's document. What was found stays: signatures are only added."""
        missing = [key for key in keys if not self._signed.get(f"{digest} {key}")]
        if missing:
            data: Any = connection.run(_BASELINE, {"digest": digest}).scalar()
            envelope = stored(data) if data is not None else None
            for key in missing:
                try:
                    if envelope is not None and envelope.verify("Baseline", [PublicKey(key)]):
                        self._signed.put(f"{digest} {key}", True)
                except PerunError:
                    continue  # this one did not
        return frozenset(key for key in keys if self._signed.get(f"{digest} {key}"))

    def _read(self, digest: str, kept: _Stored) -> Baseline:
        """Raises `IntegrityError` (custody_broken): the compiled form is not the one that was made of this document."""
        if kept.compiled:
            return load_compiled(self._keys.take(kept.data, {"compiled": digest}), digest)
        return Baseline.from_payload(stored(kept.data).payload, digest)

    def read(self, unread: Unread, now: int) -> None:
        """Read baselines and make what they allow at `now` ready; for any thread."""
        for digest, data in unread.envelopes.items():
            baseline = self._read(digest, data)
            _ = baseline.at(now).plain
            self._baselines.put(digest, baseline)


def _read_agreement(digest: str, data: Any) -> tuple[Agreement, Envelope]:
    envelope = stored(data)
    agreement = agreement_from_json(envelope.unverified("Agreement"))
    if agreement.digest != digest:
        raise refuse(STATE_DAMAGED, "a stored agreement is not the one it is stored as", expected=digest)
    return agreement, envelope


def _signed_by(kind: str, envelope: Envelope, key: str) -> bool:
    try:
        envelope.verify(kind, [PublicKey(key)])
    except PerunError:
        return False  # others signed this one
    return True
