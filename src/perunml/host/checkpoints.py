"""A training's checkpoints: what lies in PERUNML_CHECKPOINTS, sealed at an even beat, numbered, sent to the manager for the run's own resumes.

The beat and the size are the agreement's, whatever the job writes: who watches the network learns from neither. A beat
on which there is nothing new, or a file is just being written, sends what the one before held. Docs: docs/decisions/0029.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from perunml.api.runs import CheckpointKey, RegisterCheckpoint
from perunml.host.clock import boottime
from perunml.host.codes import DELIVERY_MISMATCH, LEASE_OVER
from perunml.host.fetch import Fetched
from perunml.host.memory import SLACK, PrivateMemory, wipe
from perunml.host.outputs import send_blobs
from perunml.host.progress import Report
from perunml.host.protocol import ManagerLink, insist
from perunml.host.session import Session
from perunml.sealing.index import MAX_PARTS
from perunml.sealing.manifest import open_manifest
from perunml.sealing.packed import MAX_FILES, pack, packed_size, unpack
from perunml.sealing.store import FolderStore
from perunml.sealing.writer import seal_files
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import Signer

MOUNT, PACKED = "checkpoints", "packed"
"""Names of the memory mounts: the job's folder, and what is sealed of it."""
ROOM = 2
"""Times the agreed size that the job's folder holds: code writes the next checkpoint before it drops the one before."""
TRIES, PAUSE = 20, 0.05
"""How often, and after how many seconds, a folder that is being written to is looked at again within one beat."""
FILE_NAME = "checkpoint"


class Busy(Exception):
    """A file is being written, or went while it was looked at."""


def prepare(terms: CheckpointKey, memory: PrivateMemory, user: int, last: Fetched | None) -> Path:
    """The job's folder, with what the run goes on from in it. Raises `LimitReached` (memory_short), `IntegrityError`."""
    most = packed_size(terms.max_size)
    folder = memory.add(MOUNT, ROOM * terms.max_size + SLACK, owner=user)
    memory.add(PACKED, most + SLACK)
    if last is not None:
        reader = last.reader
        try:
            if reader.files != {FILE_NAME: most}:
                raise refuse(DELIVERY_MISMATCH, "a checkpoint is not of the agreed size")

            def read(offset: int, buffer: memoryview) -> None:
                reader.read_into(FILE_NAME, offset, buffer)

            unpack(read, most, folder, user)
        finally:
            reader.close()
            shutil.rmtree(last.folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def keep(terms: CheckpointKey, session: Session, memory: PrivateMemory, folder: Path, report: Report) -> Iterator[None]:
    """Keep the run's checkpoints while the job runs; sealed ones lie in `folder` until they are sent."""

    def link() -> ManagerLink:
        if kept.stopped:
            raise refuse(LEASE_OVER, "the job ended while a checkpoint was being sent")
        return session.link

    kept = Checkpoints(terms, memory, Sender(session.run, terms, session.signer, link, folder), report)
    kept.start()
    try:
        yield
    finally:
        kept.stop()


class Checkpoints:
    """Takes one each beat, in a thread of its own, from `start` to `stop`. `send` as `Sender` does it."""

    def __init__(
        self, terms: CheckpointKey, memory: PrivateMemory, send: Callable[[int, Path], None], report: Report,
        *, clock: Callable[[], float] = boottime,
    ) -> None:  # fmt: skip
        self._terms = terms
        self._folder = memory.root / MOUNT
        self._packed = memory.root / PACKED / FILE_NAME
        self._send = send
        self._report = report
        self._clock = clock
        self._number = terms.number
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="perunml-checkpoints", daemon=True)
        # A lease on a file that is opened for writing is told by this signal, whose default is to end the process.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # all files are open at once, twice

    def start(self) -> None:
        self._descriptor = os.open(self._packed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        pack({}, self._descriptor, self._terms.max_size)
        self._thread.start()

    def stop(self) -> None:
        """Take no more; one that is under way is given up."""
        self._stop.set()
        self._thread.join()
        os.close(self._descriptor)

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def _keep(self) -> None:
        due = self._clock() + self._terms.every
        while not self._stop.wait(max(0.0, due - self._clock())):
            self._take()
            due = max(due, self._clock() - self._terms.every) + self._terms.every

    def _take(self) -> None:
        number = self._number
        try:
            self._pack()
            self._send(number, self._packed)
        except PerunError as exc:
            if not self.stopped:
                self._report.reasons("checkpoint_refused", exc.reasons, number=number)
        else:
            self._report("checkpoint", number=number)
        self._number = number + 1

    def _pack(self) -> None:
        """What lies there now; unchanged when it does not hold still, or is too much, which is told."""
        for _ in range(TRIES):
            try:
                with still(self._folder) as files:
                    pack(files, self._descriptor, self._terms.max_size)
                    return
            except Busy:
                time.sleep(PAUSE)
            except PerunError as exc:
                self._report.reasons("checkpoint_refused", exc.reasons, number=self._number)
                return
            except OSError as exc:  # the beat goes on, with what there was
                self._report(
                    "warning",
                    message=f"the checkpoint's folder cannot be read: {errno.errorcode.get(exc.errno or 0, 'error')}",
                )
                return


@contextlib.contextmanager
def still(folder: Path) -> Iterator[dict[str, int]]:
    """The files below `folder`, opened, by their paths, none of which anybody can write to meanwhile: a read lease (fcntl(2), F_SETLEASE) is
    given only where nobody has the file open for writing, and who opens it so waits. Raises `Busy`. Links and special files are left out.

    The job may change names while they are looked at, and this process is root outside of its sandbox: each folder and file is opened by its name in the folder
    before, never through a link, and never so that opening could wait (a pipe)."""
    with contextlib.ExitStack() as stack:
        found: dict[str, int] = {}
        try:
            top = os.open(folder, _FOLDER)
            stack.callback(os.close, top)
            _collect(top, "", found, stack)
            for descriptor in found.values():
                fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            again: dict[str, int] = {}
            with contextlib.ExitStack() as second:
                _collect(top, "", again, second)
                same = list(again) == list(found) and all(
                    os.path.samestat(os.fstat(again[path]), os.fstat(found[path])) for path in found
                )
        except OSError as exc:
            if exc.errno in _CHANGING:
                raise Busy from None
            raise
        if not same:
            raise Busy
        yield found


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHANGING = (errno.EAGAIN, errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)


def _collect(folder: int, path: str, found: dict[str, int], stack: contextlib.ExitStack) -> None:
    """Open all that is in a folder; at most one more than may be packed, which `pack` then tells."""
    for name in sorted(os.listdir(folder)):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode) and path.count("/") < MAX_PARTS:
            inside = os.open(name, _FOLDER, dir_fd=folder)
            try:
                _collect(inside, f"{path}{name}/", found, stack)
            finally:
                os.close(inside)
        elif stat.S_ISREG(mode) and len(found) <= MAX_FILES:
            descriptor = os.open(name, _FILE, dir_fd=folder)
            stack.callback(os.close, descriptor)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                found[f"{path}{name}"] = descriptor


class Sender:
    """Seals one checkpoint and sends it. `link` is asked for each part, so that a lost lease, or the job's end, ends the transfer."""

    def __init__(
        self, run: str, terms: CheckpointKey, signer: Signer, link: Callable[[], ManagerLink], folder: Path
    ) -> None:
        self._run, self._terms, self._signer, self._link, self._folder = run, terms, signer, link, folder

    def __call__(self, number: int, packed: Path) -> None:
        """Raises what the manager refuses, `LimitReached` (disk_full)."""
        shutil.rmtree(self._folder, ignore_errors=True)
        store = FolderStore(self._folder)
        data_key = bytearray(self._terms.key)
        try:
            envelope = seal_files(
                {FILE_NAME: packed}, store, name=FILE_NAME, kind="checkpoint", owner=self._signer, data_key=data_key,
                asset_id=self._terms.asset_id, version=number,
            )  # fmt: skip
        finally:
            wipe(data_key)
        message = RegisterCheckpoint(manifest=envelope)

        def register() -> None:
            view = insist(lambda: self._link().register_checkpoint(self._run, message))
            send_blobs(view, open_manifest(envelope, [self._signer.public]), store, self._link)

        try:
            register()
            register()  # kept only now, when all of it is there
        finally:
            store.close()
            shutil.rmtree(self._folder, ignore_errors=True)
