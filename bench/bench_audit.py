"""`perunml audit verify`: a ledger of 100,000 entries, all of them this party's, verified offline.

The history is one that a manager could have written: runs asked for with a signature each, released, renewed many times, finished with a
receipt each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perunml.agreements.approvals import approval
from perunml.agreements.document import agreement_envelope, agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.client.audit_export import CHECKPOINT, COSIGNATURES, DOCUMENTS, ENTRIES
from perunml.client.audit_verify import verify_export
from perunml.ledger.checkpoint import sign_checkpoint
from perunml.ledger.entries import Entry, entry_data, entry_hash, leaf_of
from perunml.ledger.receipts import Ran, Receipt, sign_receipt
from perunml.ledger.tiles import bundle, tile
from perunml.ledger.whole import Whole, bundle_paths, tile_paths
from perunml.wire.canonical import canonical
from perunml.wire.dsse import Envelope, signed
from perunml.wire.encoding import b64
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey

RUNS = 4_000
RENEWALS = 22
"""Of each run: with request, release and end 25 entries a run, 100,000 in all."""
TIMES = 3
START = 1_800_000_000
OWNERS = ("hospital", "startup", "cloud")
MACHINE = "ek:sha256:" + "0" * 64
MODEL = "sha256:" + "1" * 64


@dataclasses.dataclass
class Forged:
    """A history, entry by entry, as a manager's journal writes it."""

    manager: SigningKey
    leaves: list[bytes] = dataclasses.field(default_factory=list)
    entries: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    documents: list[Envelope] = dataclasses.field(default_factory=list)
    head: str = ""

    def append(self, type_: str, agreement: Agreement, subject: str, body: dict[str, Any]) -> int:
        """The entry's index."""
        index = len(self.leaves)
        entry = Entry(type_, START + index, agreement.digest, subject, body, self.head)
        salt = hashlib.sha256(b"%d" % index).digest()
        leaf = leaf_of(entry_data(entry), salt)
        self.leaves.append(leaf)
        self.entries.append({"index": index, "salt": b64(salt), "entry": entry.as_json()})
        self.head = entry_hash(leaf)
        return index

    def write(self, target: Path) -> None:
        """The export."""
        whole = Whole(self.leaves)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(CHECKPOINT, sign_checkpoint(whole.size, whole.tree.root(), self.manager))
            for path in bundle_paths(whole.size):
                archive.writestr(str(path), bundle(self.leaves[path.index * 256 : path.index * 256 + path.width]))
            for path in tile_paths(whole.size):
                archive.writestr(str(path), tile(whole, path, whole.size))
            lines: list[tuple[str, Iterable[Any]]] = [
                (ENTRIES, self.entries), (DOCUMENTS, (found.as_json() for found in self.documents)), (COSIGNATURES, [])
            ]  # fmt: skip
            for name, values in lines:
                archive.writestr(name, b"".join(canonical(value) + b"\n" for value in values))


def run() -> dict[str, Any]:
    """Seconds for the whole, the best of a few: what else the machine does only adds."""
    manager = SigningKey.generate()
    with tempfile.TemporaryDirectory(prefix="perunml-bench-") as folder:
        target = Path(folder) / "export.zip"
        made = forged(manager)
        made.write(target)
        took = []
        for _ in range(TIMES):
            start = time.perf_counter()
            report = verify_export(target, manager.public)
            took.append(time.perf_counter() - start)
        size = target.stat().st_size
    if report.counts["receipts"] != RUNS or report.counts["renewals"] != RUNS * RENEWALS or report.unchecked:
        raise RuntimeError(f"not all was checked: {report}")
    return {
        "title": (
            f"An export of {len(made.entries):,} entries verified offline on one core: tree, tiles, chain, {RUNS:,} requests and "
            f"{RUNS:,} receipts with their signatures, and every decision made again; best of {TIMES}."
        ),
        "results": [
            {"name": "audit verify", "value": min(took), "unit": "s", "higher_is_better": False, "target": 10},
            {"name": "entries", "value": len(made.entries) / min(took), "unit": "1/s", "higher_is_better": True},
            {"name": "the export", "value": size / 2**20, "unit": "MiB", "higher_is_better": False},
        ],
    }


def forged(manager: SigningKey) -> Forged:
    """An agreement of three parties, approved, and its runs."""
    made = Forged(manager)
    keys = {name: SigningKey.generate() for name in OWNERS}
    agreement = agreement_from_json(_document(manager, keys))
    envelope = agreement_envelope(agreement)
    key = keys["startup"]
    made.documents.append(envelope.with_signature(key.public, key.sign(envelope.signing_bytes())))
    told = {"name": agreement.name, "version": 1, "predecessor": ""}
    made.append("agreement", agreement, agreement.digest, told)
    for name in OWNERS:
        vote = signed("Approval", approval(agreement, name, agreement.ends), keys[name])
        made.documents.append(vote)
        body = {"party": name, "keys": [keys[name].public.text], "approval": vote.digest}
        made.append("approval", agreement, name, body)
    made.append("in-force", agreement, agreement.digest, {"predecessor": ""})
    for number in range(RUNS):
        _run(made, agreement, keys["startup"], f"{number:032x}")
    return made


def _run(made: Forged, agreement: Agreement, key: SigningKey, run: str) -> None:
    body: dict[str, Any] = {"manager": made.manager.public.text, "agreement": agreement.digest, "job": "train"}
    body |= {"parameters": {"epochs": 2}, "assets": {}, "id": run}
    request = signed("RunRequest", body, key)
    made.documents.append(request)
    made.append("run", agreement, run, {"job": "train", "party": "startup", "request": request.digest})
    assets = {name: agreement.assets[name].digest for name in ("code", "scans")}
    claims = {"ima_entries": 1200, "pcrs": list(range(15)), "boot": "0" * 64}
    verdict = {"profile": "simulated", "imitates": "measured", "simulated": True, "boot": "0" * 64, "claims": claims}
    told: dict[str, Any] = {"job": "train", "lease": run, "machine": MACHINE, "session_key": key.public.text}
    made.append("release", agreement, run, {**told, "assets": assets, "verdict": verdict})
    for _ in range(RENEWALS):
        made.append("renewal", agreement, run, {"lease": run, "machine": MACHINE, "claims": claims})
    ended = {"lease": run, "machine": MACHINE, "error": "", "outputs": {"model": MODEL}, "reasons": []}
    index = made.append("finished", agreement, run, ended)
    receipt = Receipt(
        manager=made.manager.public.text, agreement=agreement.digest, job="train", run=run,
        inputs={"scans": assets["scans"]}, code=assets["code"], host=Ran(MACHINE, "simulated", "measured", True),
        parameters={"epochs": 2}, outputs={"model": MODEL}, entry_index=index, entry_hash=made.head, time=START + index,
    )  # fmt: skip
    made.documents.append(sign_receipt(receipt, made.manager))


def _document(manager: SigningKey, keys: dict[str, SigningKey]) -> dict[str, Any]:
    return {
        "apiVersion": "perunml/v1",
        "kind": "Agreement",
        "metadata": {"name": "bench"},
        "manager": {"key": manager.public.text, "profile": {"profile": "simulated"}},
        "witnesses": {"waived_because_simulated": True},
        "parties": {name: {"keys": {"k": key.public.text}, "receive": HpkePrivateKey.generate().public.text} for name, key in keys.items()},
        "assets": {
            "code": {"kind": "code", "owner": "startup", "digest": f"sha256:{2:064x}", "entry": "train.py"},
            "scans": {"kind": "dataset", "owner": "hospital", "digest": f"sha256:{3:064x}"},
        },
        "hosts": {
            "trainer": {
                "profile": "simulated", "imitates": "measured", "baseline": f"sha256:{4:064x}", "machines": [MACHINE],
            }
        },
        "jobs": {
            "train": {
                "code": "code",
                "inputs": {"scans": "/in/scans"},
                "hosts": "trainer",
                "operator": "cloud",
                "parameters": {"epochs": {"max": 5}},
                "limits": {"runs": RUNS, "until": "2099-01-01T00:00:00Z", "wall": "1h"},
                "outputs": {"model": {"to": "startup", "format": "pt2", "max_size": "1MiB"}},
            }
        },
    }  # fmt: skip
