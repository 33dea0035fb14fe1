"""A job's outputs: looked at when its processes are gone, checked, sealed by the session, sent to the manager.

Checked first: nothing undeclared, nothing missing, plain files within their size and of their declared format, metrics by
their own rules. One failure and none leaves. Refusals name declared outputs only, never what the job wrote or called it: names and
sizes are bits too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from perunml.api.assets import PART_SIZE, AssetView
from perunml.api.runs import OutputKey, RegisterOutput
from perunml.host.codes import DELIVERY_MISMATCH, OUTPUT_MISSING, OUTPUT_NOT_A_FILE, OUTPUT_UNDECLARED
from perunml.host.memory import wipe
from perunml.host.metrics import clean_metrics
from perunml.host.protocol import ManagerLink, insist
from perunml.sealing.codes import FORMAT_REFUSED, OUTPUT_TOO_LARGE
from perunml.sealing.formats import check_format
from perunml.sealing.manifest import Manifest, open_manifest
from perunml.sealing.store import FolderStore
from perunml.sealing.writer import seal_files
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.identity import Signer
from perunml.wire.rules import Reason

LOG = "log"
"""The format of what the job printed."""
MAX_NAMES = 10_000
"""Names looked at in /out; a job that wrote more wrote undeclared ones."""


@dataclass(frozen=True, slots=True)
class Found:
    """An output that passed: its file, or for metrics what may leave of it."""

    name: str
    file_name: str
    content: Path | bytes


def file_names(name: str, format: str) -> tuple[str, ...]:
    """How the file of an output may be called: ``model`` or ``model.pt2``."""
    return (name, f"{name}.{format}")


def collect(folder: Path, declared: Mapping[str, OutputKey]) -> list[Found]:
    """The outputs in `folder`, all that were declared and nothing else. Raises `PerunError` with every reason found
    (output_undeclared, output_missing, output_not_a_file, output_too_large, output_format_refused, metrics_refused). The job's
    processes must be gone."""
    reasons: list[Reason] = []
    found: list[Found] = []
    taken: set[str] = set()
    present = _names(folder)
    files = {name: key for name, key in declared.items() if key.format != LOG}
    for name, key in files.items():
        mine = [each for each in file_names(name, key.format) if each in present]
        taken.update(mine)
        if len(mine) != 1:
            rule = OUTPUT_UNDECLARED if mine else OUTPUT_MISSING
            reasons.append(
                Reason(rule, f"{name}: {'two files for one output' if mine else 'the job did not write it'}")
            )
            continue
        try:
            found.append(Found(name, mine[0], _checked(folder / mine[0], name, key)))
        except PerunError as exc:
            reasons.extend(exc.reasons)
    if present - taken:
        reasons.append(Reason(OUTPUT_UNDECLARED, "the job wrote names into PERUNML_OUT that the agreement does not declare",
                              expected=", ".join(sorted(files))))  # fmt: skip
    if reasons:
        raise error(reasons)
    return found


def logs(printed: bytes, declared: Mapping[str, OutputKey]) -> list[Found]:
    """The end of what the job printed, for each output that is to have it."""
    found = [(name, key.max_size) for name, key in declared.items() if key.format == LOG]
    return [Found(name, f"{name}.txt", printed[-most:]) for name, most in found]


def seal(found: Found, key: OutputKey, signer: Signer, folder: Path) -> tuple[Envelope, FolderStore]:
    """Seal one output into `folder`, its manifest signed by the session's key."""
    store = FolderStore(folder)
    data_key = bytearray(key.key)
    try:
        envelope = seal_files(
            {found.file_name: found.content}, store, name=found.name, kind="output", owner=signer, data_key=data_key,
            asset_id=key.asset_id,
        )  # fmt: skip
    finally:
        wipe(data_key)
    return envelope, store


def send(
    run: str, name: str, envelope: Envelope, store: FolderStore, signer: Signer, link: Callable[[], ManagerLink],
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> str:  # fmt: skip
    """Register a sealed output and send its blobs; its digest. Goes on where an interrupted sending stopped. `link` is asked
    for each part, so that a lost lease ends the transfer."""
    view = insist(lambda: link().register_output(run, RegisterOutput(name=name, manifest=envelope)))
    if view.asset != envelope.digest:
        raise refuse(DELIVERY_MISMATCH, f"the manager registered another output than {name}")
    send_blobs(view, open_manifest(envelope, [signer.public]), store, link, partial(progress, name))
    return envelope.digest


def send_blobs(
    view: AssetView, manifest: Manifest, store: FolderStore, link: Callable[[], ManagerLink],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:  # fmt: skip
    """Send what the manager, by `view`, has not got yet of a registered asset's ciphertext."""
    done, total = 0, manifest.total_sealed
    for blob in manifest.all_blobs:
        size = manifest.sealed_size(blob)
        for offset in range(view.received.get(blob.id, 0), size, PART_SIZE):
            part = bytearray(min(PART_SIZE, size - offset))
            store.read(blob.id, offset, memoryview(part))
            insist(partial(_put, link, view.asset, blob.id, offset, bytes(part)))
            done += len(part)
            progress(done, total)


def _put(link: Callable[[], ManagerLink], asset: str, blob: str, offset: int, part: bytes) -> None:
    link().write_blob(asset, blob, offset, part)


def _names(folder: Path) -> set[str]:
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            names.add(entry.name)
            if len(names) > MAX_NAMES:
                break
    return names


def _checked(path: Path, name: str, key: OutputKey) -> Path | bytes:
    info = path.lstat()
    if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
        raise refuse(OUTPUT_NOT_A_FILE, f"{name} is not a plain file with one name")
    if info.st_size > key.max_size:
        raise refuse(OUTPUT_TOO_LARGE, f"{name} is larger than agreed", expected=f"at most {key.max_size} bytes")
    if key.fields:
        return clean_metrics(path.read_bytes(), key.fields, key.max_size)
    try:
        check_format(path, key.format, key.max_size)
    except PerunError:
        # Said anew, without what was seen: that is the job's.
        raise refuse(FORMAT_REFUSED, f"{name} is not of its declared format", expected=key.format) from None
    return path
