"""The vendors' collateral that a manager judges TEEs and GPUs with: signed bundles in its folder, and the newest that was ever
judged by.

``collateral/*.json`` are DSSE envelopes of kind ``Collateral``; one that none of the admitted
signers signed is refused when it is read. Whatever a bundle holds is signed by its vendor as well, and is judged so.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.dialects.sqlite import insert

from perunml.evidence.endorsements import KIND, MAX_BUNDLE, Collateral, Endorsements, Seen
from perunml.manager.codes import COLLATERAL_UNSIGNED
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.wire.canonical import load_json
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey

LOOK_EVERY = 2.0
"""Seconds between two looks at the folder."""
_SEEN = "SELECT name, number, issued FROM collateral_seen"
_row = insert(t.collateral_seen)
_REMEMBER = Statement(
    _row.on_conflict_do_update(
        index_elements=["name"],
        set_={"number": _row.excluded.number, "issued": _row.excluded.issued},
        where=(t.collateral_seen.c.number < _row.excluded.number)
        | ((t.collateral_seen.c.number == _row.excluded.number) & (t.collateral_seen.c.issued < _row.excluded.issued)),
    )
)
Stamp = tuple[tuple[str, int, int], ...]


class CollateralStore:
    """`folder` is looked at again, at most every `LOOK_EVERY` seconds by `steady`: a new bundle needs no restart."""

    def __init__(
        self, folder: Path, signers: Sequence[str], simulated_roots: Sequence[bytes], steady: Callable[[], float]
    ) -> None:
        self._folder, self._steady = folder, steady
        self._signers = [PublicKey(text) for text in signers]
        self._simulated = tuple(simulated_roots)
        self._stamp: Stamp | None = None
        self._looked = float("-inf")
        self._collateral = Collateral()
        self._refused: PerunError | None = None
        self._reading = threading.Lock()

    def endorsements(self, connection: Connection) -> Endorsements:
        """What evidence is judged with now. Raises `IntegrityError` (collateral_unsigned) for a bundle that cannot be used: what
        is there is wrong, and nothing is judged by half of it."""
        self._look()
        if self._refused is not None:
            raise self._refused
        seen = {str(name): Seen(int(number), int(issued)) for name, number, issued in connection.run(_SEEN).all()}
        return Endorsements(self._collateral, self._simulated, seen)

    def remember(self, connection: Connection, seen: Mapping[str, Seen]) -> None:
        """Never to be judged by anything older again."""
        for name, newest in seen.items():
            _REMEMBER.run(connection, name=name, number=newest.number, issued=newest.issued)

    def _look(self) -> None:
        with self._reading:  # nobody judges by the old set, or by none, while another thread reads the new one
            self._look_now()

    def _look_now(self) -> None:
        now = self._steady()
        if now < self._looked + LOOK_EVERY:
            return
        self._looked = now
        stamp = self._stamped()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._collateral, self._refused = self._read([Path(name) for name, _, _ in stamp]), None
        except PerunError as exc:
            self._refused = exc

    def _stamped(self) -> Stamp:
        if not self._folder.is_dir():
            return ()
        found = []
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):  # taken out meanwhile
                stat = path.stat()
                found.append((str(path), stat.st_mtime_ns, stat.st_size))
        return tuple(found)

    def _read(self, paths: Sequence[Path]) -> Collateral:
        bundles = sorted((self._bundle(path) for path in paths), key=lambda bundle: -bundle.made)
        if not bundles:
            return Collateral()
        lists: dict[str, Any] = {
            name: tuple(dict.fromkeys(item for bundle in bundles for item in getattr(bundle, name)))
            for name in ("dcap", "certificates", "crls", "rims", "ocsp")
        }
        return Collateral(bundles[0].made, **lists)

    def _bundle(self, path: Path) -> Collateral:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BUNDLE * 2 + 1)
            envelope = Envelope.from_json(load_json(data, limit=MAX_BUNDLE * 2))
            body = envelope.open(KIND, self._signers, limit=MAX_BUNDLE)
            return Collateral.from_json(
                {name: value for name, value in body.items() if name not in ("apiVersion", "kind")}
            )
        except (PerunError, OSError) as exc:
            why = exc.reasons[0].message if isinstance(exc, PerunError) else exc.strerror or type(exc).__name__
            admitted = ", ".join(key.text for key in self._signers) or "no key is admitted"
            raise refuse(COLLATERAL_UNSIGNED, f"{path.name}: {why}", expected=admitted) from None
