"""Outputs: who may have them, approving that one leaves, and pulling it into a folder.

What is pulled is believed only as far as signatures go: the receipt by the pinned manager names the manifest by digest, the
manifest by the run's session key names the ciphertext, and the data key opens only for this party, in this context.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from perunml.agreements.recovery import origin
from perunml.api.assets import PART_SIZE
from perunml.api.runs import ApproveOutput, OutputDelivery, OutputView, RunView
from perunml.client import agreements
from perunml.client.assets import Progress
from perunml.client.codes import ALREADY_EXISTS, NO_OUTPUT, OUTPUT_MISMATCH
from perunml.client.connection import Connection
from perunml.client.home import Home, write_file
from perunml.client.identity import Identity
from perunml.client.runs import show
from perunml.ledger.receipts import KIND as RECEIPT
from perunml.ledger.receipts import Receipt, open_receipt
from perunml.sealing.keys import wipe
from perunml.sealing.manifest import Manifest, open_manifest
from perunml.sealing.reader import SealedReader, verify_tree
from perunml.sealing.store import FolderStore
from perunml.sealing.views.files import unpack
from perunml.wire.dsse import signed
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey


@dataclass(frozen=True, slots=True)
class Pulled:
    """An unpacked output: what it is, its files by size, and the receipt that vouches for it."""

    asset: str
    folder: Path
    files: dict[str, int]
    receipt: Receipt
    receipt_file: Path


def find(view: RunView, name: str) -> OutputView:
    """A run's output by name. Raises `OutputHeld` (no_output)."""
    for output in view.outputs:
        if output.name == name:
            return output
    raise refuse(
        NO_OUTPUT,
        f"the run has no output {name!r}",
        expected=", ".join(output.name for output in view.outputs) or "a finished run",
        seen=f"run {view.state}",
        command=f"perunml job show {view.run}",
    )


def approve(connection: Connection, identity: Identity, run: str, name: str, party: str) -> OutputView:
    """Sign that this output may leave as the agreement says, in its version that is in force now."""
    view = show(connection, run)
    output = find(view, name)
    body = {
        "manager": connection.pin.identity,
        "agreement": output.agreement,
        "run": view.run,
        "output": name,
        "asset": output.asset,
        "party": party,
    }
    message = ApproveOutput(approval=signed("OutputApproval", body, identity.signing))
    return connection.call("POST", f"/v1/outputs/{quote(output.asset)}/approvals", OutputView, message)


def pull(
    connection: Connection,
    home: Home,
    identity: Identity,
    run: str,
    name: str,
    target: Path,
    *,
    progress: Progress | None = None,
) -> Pulled:
    """Unpack an output into `target`, which must not exist; all of it or nothing. Raises `OutputHeld` while it may not
    leave, `IntegrityError` when anything does not belong together."""
    if target.exists():
        raise refuse(ALREADY_EXISTS, "the target is there already", expected="a new folder", seen=str(target))
    output = find(show(connection, run), name)
    delivery = connection.call("GET", f"/v1/outputs/{quote(output.asset)}/delivery", OutputDelivery)
    manifest, receipt = _checked(connection, delivery, run, name, output.asset)
    key = bytearray(identity.unseal(delivery.sealed_key, _info(connection, delivery, output.asset)))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".pull-"))
    try:
        with FolderStore(temporary / "sealed") as store:
            _fetch(connection, output.asset, manifest, store, progress)
            verify_tree(manifest, store)
            (temporary / "open").mkdir()
            with SealedReader(manifest, key, store) as reader:
                unpack(reader, temporary / "open")
                files = reader.files
        os.rename(temporary / "open", target)
    finally:
        wipe(key)
        shutil.rmtree(temporary, ignore_errors=True)
    kept = home.receipt_path(run)
    write_file(kept, delivery.receipt.encode())
    return Pulled(output.asset, target, files, receipt, kept)


def _checked(
    connection: Connection, delivery: OutputDelivery, run: str, name: str, asset: str
) -> tuple[Manifest, Receipt]:
    receipt = open_receipt(delivery.receipt, PublicKey(_manager_of(connection, delivery)))
    # What was recovered from a lost manager is this agreement's, and its receipt names the one that it was trained under.
    under = receipt.agreement if receipt.manager == connection.pin.identity else delivery.agreement
    there = delivery.run if receipt.manager == connection.pin.identity else origin(delivery.run)
    said = (there, delivery.output, delivery.manifest.digest, delivery.agreement)
    proven = (receipt.run, name, receipt.outputs.get(name, "nothing"), under)
    if said != proven or (delivery.run, delivery.manifest.digest) != (run, asset):
        raise refuse(
            OUTPUT_MISMATCH,
            "the output that came is not the one that the receipt proves",
            expected=f"{name} of {receipt.run}: {proven[2]}",
            seen=f"{delivery.output} of {delivery.run}: {delivery.manifest.digest}",
        )
    return open_manifest(delivery.manifest, [PublicKey(delivery.signer)]), receipt


def _manager_of(connection: Connection, delivery: OutputDelivery) -> str:
    """Whose receipt it has to be: the pinned manager's, or of one that the agreement lets it take outputs over from."""
    said = str(delivery.receipt.unverified(RECEIPT).get("manager"))
    if said == connection.pin.identity:
        return said
    _, agreement = agreements.show(connection, delivery.agreement)
    if agreement.recovery is None or said not in agreement.recovery.managers:
        raise refuse(
            OUTPUT_MISMATCH, "the receipt is of a manager that the agreement does not name",
            expected=connection.pin.identity, seen=said,
        )  # fmt: skip
    return said


def _info(connection: Connection, delivery: OutputDelivery, asset: str) -> dict[str, Any]:
    return {
        "label": "perunml/output-key",
        "manager": connection.pin.identity,
        "agreement": delivery.agreement,
        "run": delivery.run,
        "output": delivery.output,
        "asset": asset,
        "party": delivery.party,
    }


def _fetch(
    connection: Connection, asset: str, manifest: Manifest, store: FolderStore, progress: Progress | None
) -> None:
    """All ciphertext, to disk: it is checked as a whole before a byte of it is opened."""
    total, done = manifest.total_sealed, 0
    for blob in manifest.all_blobs:
        size = manifest.sealed_size(blob)
        with store.create(blob.id) as out:
            for offset in range(0, size, PART_SIZE):
                length = min(PART_SIZE, size - offset)
                where = f"/v1/assets/{asset}/blobs/{blob.id}?offset={offset}&length={length}"
                part = connection.raw("GET", where, limit=length)
                if len(part) != length:
                    raise refuse(OUTPUT_MISMATCH, "a part is short", expected=str(length), seen=str(len(part)))
                out.write(part)
                done += length
                if progress is not None:
                    progress(done, total)
