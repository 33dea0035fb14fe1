"""Witnessing: whatever a manager shows must contain what it showed before; then this party cosigns it.

A client is a witness while it is used, and `perunml witness run` is one all the time. The newest checkpoint is stored before it
is cosigned, so that no crash makes this witness forget what it vouched for.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from perunml.api.witness import MAX_WAIT, Accepted, Cosignature, Objection, WitnessView
from perunml.client.home import Home, write_file
from perunml.ledger.checkpoint import Checkpoint, check_progress, open_checkpoint
from perunml.ledger.notes import parse_note
from perunml.ledger.witnessing import sign_as_witness
from perunml.wire.errors import IntegrityError, PerunError
from perunml.wire.identity import PublicKey

if TYPE_CHECKING:
    from perunml.client.connection import Connection
    from perunml.wire.identity import Signer

PAUSE = 2.0
"""Seconds before a manager that did not answer is asked again."""


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What was seen: the ledger's size and root now, its size when seen last (None: never), and whether it was cosigned,
    which it is for managers whose agreements name this party as a witness. `every`: seconds between two cosignatures."""

    size: int
    root: str
    seen: int | None
    cosigned: bool
    every: int


def witness(
    connection: Connection, home: Home, signer: Signer, *, wait: int = 0, now: Callable[[], float] = time.time
) -> Witnessed:
    """Look at the manager's ledger, and cosign it where this key is named. `wait`: seconds that the manager may take until there
    is something to see. Raises `IntegrityError` (ledger_rollback, split_view, bad_consistency_proof, …), after what contradicts
    the manager's ledger was shown to it; `Unreachable`."""
    view, fresh, seen = _follow(connection, home, wait)
    cosigns = view.named and signer.public.algorithm == "ed25519"
    if cosigns:
        note = sign_as_witness(parse_note(view.checkpoint), signer, int(now()))
        connection.call("POST", "/v1/witness", Accepted, Cosignature(note=str(note)))
    return Witnessed(fresh.size, fresh.root.hex(), seen, cosigns, view.every)


def witness_until(
    stop: Event, connection: Connection, home: Home, signer: Signer, told: Callable[[Witnessed | PerunError], None]
) -> None:
    """Witness until `stop` is set; `told` hears of every look and of every failure. A manager that cannot be reached is asked
    again. Raises `IntegrityError`: there is nothing more to witness, and the operator of the manager is to be asked."""
    wait = 0  # the first look is for now, the next ones for news
    while not stop.is_set():
        try:
            seen = witness(connection, home, signer, wait=wait)
        except IntegrityError:
            raise
        except PerunError as exc:
            told(exc)
            stop.wait(PAUSE)
            continue
        told(seen)
        wait = MAX_WAIT
        if not seen.cosigned:
            stop.wait(PAUSE)


def object_to(connection: Connection, note: str) -> None:
    """Show the manager a checkpoint of its own that its ledger does not contain; one that does not answer misses nothing that
    this party's error does not say."""
    with contextlib.suppress(PerunError):
        connection.call("POST", "/v1/witness/objections", Accepted, Objection(note=note))


def _follow(connection: Connection, home: Home, wait: int) -> tuple[WitnessView, Checkpoint, int | None]:
    """What the manager shows, proven to contain what was seen last and stored; its checkpoint; and the last one's size."""
    manager = PublicKey(connection.pin.identity)
    while True:
        with home.ledger_locked(connection.pin) as path:
            before = _read(path)
        seen = open_checkpoint(before, manager) if before else None
        view = connection.call("GET", f"/v1/witness?size={seen.size if seen else 0}&wait={wait}", WitnessView)
        fresh = open_checkpoint(view.checkpoint, manager)
        with home.ledger_locked(connection.pin) as path:
            if _read(path) != before:
                wait = 0  # another process of this party was faster: what it saw is what counts
                continue
            if seen is not None:
                try:
                    check_progress(seen, fresh, view.proof)
                except IntegrityError:
                    object_to(connection, before)
                    raise
            write_file(path, view.checkpoint.encode())
        return view, fresh, None if seen is None else seen.size


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
