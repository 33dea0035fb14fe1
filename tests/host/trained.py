"""A program for the training's tests: seals code and data, trains on them as a runner does, prints the end as JSON.

Input, as JSON on stdin: {"code": text of train.py, "data": {file: text}, "wall": seconds, "tamper": bool, "max_size": bytes,
"unpack_at_most": bytes, "spoil": bool (alter what was fetched and verified)}.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from perunml.api.runs import InputKey, KeyDelivery, OutputKey
from perunml.host import job, outputs
from perunml.host.fetch import Fetched, check_inputs, fetch_inputs
from perunml.host.memory import STAGE, PrivateMemory, guard_process
from perunml.host.progress import Report
from perunml.sealing.keys import new_data_key
from perunml.sealing.store import FolderStore
from perunml.sealing.writer import seal_files
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey


class Link:
    """The part of `ManagerLink` that fetching uses, over folders instead of a network."""

    def __init__(self, stores: dict[str, FolderStore], tamper: bool) -> None:
        self.stores, self.tamper = stores, tamper

    def read_blob(self, asset: str, blob: str, offset: int, size: int) -> bytes:
        part = bytearray(size)
        self.stores[asset].read(blob, offset, memoryview(part))
        if self.tamper:
            part[-1] ^= 1
        return bytes(part)


def main() -> None:
    asked = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        owner = SigningKey.generate()
        stores: dict[str, FolderStore] = {}
        inputs = {}
        for name, kind, mount, files in (
            ("code", "code", "/code", {"train.py": asked["code"]}),
            ("scans", "dataset", "/in/scans", asked["data"]),
        ):
            key, store = new_data_key(), FolderStore(folder / f"sealed-{name}")
            content = {path: text.encode() for path, text in files.items()}
            envelope = seal_files(content, store, name=name, kind=kind, owner=owner, data_key=key)
            stores[envelope.digest] = store
            inputs[name] = InputKey(asset=envelope.digest, kind=kind, mount=mount, manifest=envelope,
                                    owners=[owner.public.text], key=bytes(key))  # fmt: skip
        delivery = KeyDelivery(
            run=os.urandom(16).hex(), agreement="sha256:" + "0" * 64, kind="train", job={}, entry="train.py", parameters={"epochs": 2},
            inputs=inputs, clients={}, wall_seconds=asked.get("wall", 60), simulated=True,
            outputs={
                "model": OutputKey(key=b"k" * 32, asset_id="cd" * 16, format="json", max_size=asked.get("max_size", 4096), fields=[]),
                "metrics": OutputKey(key=b"m" * 32, asset_id="ef" * 16, format="json", max_size=4096, fields=["loss"]),
            },
        )  # fmt: skip
        guard_process()
        memory = PrivateMemory.enter()
        report = Report(os.fdopen(os.dup(1), "wb"), delivery.run)
        link = Link(stores, asked.get("tamper", False))
        end: dict[str, object] = {}
        try:
            check_inputs(delivery)
            fetched: dict[str, Fetched] = fetch_inputs(delivery, lambda: link, folder / "run")  # type: ignore[arg-type, return-value]
            if asked.get("spoil"):
                for blob in (fetched["scans"].folder / "blobs").iterdir():
                    blob.write_bytes(bytes(blob.stat().st_size))
            ended = job.train(
                delivery, fetched, memory, report, swap_allowed=True, unpack_at_most=asked.get("unpack_at_most")
            )
            end["error"] = ended.error
            end["ciphertext_left"] = [str(p) for p in (folder / "run").rglob("*") if p.is_file()]
            found = outputs.collect(ended.out, delivery.outputs) if not ended.error else []
            end["outputs"] = {
                each.name: (each.content if isinstance(each.content, bytes) else each.content.read_bytes()).decode()
                for each in found
            }
        except PerunError as exc:
            end["refused"] = [reason.code for reason in exc.reasons]
        end["mounts"] = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(STAGE) in line]
        print(json.dumps(end), flush=True)


main()
