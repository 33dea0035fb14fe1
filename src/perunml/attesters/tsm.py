"""Reports through Linux's configfs-tsm, the one interface to TDX and SEV-SNP since 6.7 (Documentation/ABI/testing/configfs-tsm).

A request is a folder of its own: 64 bytes go into `inblob`, the report comes out of `outblob`. The kernel throws away errors of
a binary file's last write, and whoever may write there may write at any time; `generation` counts the writes, so a report is
only taken where it counted ours and no others.
"""

from __future__ import annotations

import errno
import secrets
import time
from collections.abc import Callable

from perunml.attesters.codes import (
    EVENT_LOG_UNREADABLE,
    ODD_ANSWER,
    TEE_BUSY,
    TEE_OTHER,
    TEE_REFUSED,
    TEE_UNAVAILABLE,
)
from perunml.attesters.snp_table import certificates
from perunml.attesters.tee import TeeKind
from perunml.attesters.tree import Files, Tree
from perunml.evidence.fields import MAX_CMDLINE, MAX_EVENT_LOG
from perunml.evidence.parts import MAX_QUOTE, SnpPart, TdxPart, TeePart
from perunml.wire.errors import PerunError, refuse

REPORTS = "/sys/kernel/config/tsm/report"
CCEL = "/sys/firmware/acpi/tables/data/CCEL"
CMDLINE = "/proc/cmdline"
PROVIDERS: dict[str, TeeKind] = {"tdx_guest": "tdx", "sev_guest": "snp"}
"""What `provider` says -> the TEE's name."""
MAX_ATTRIBUTE = 4096
"""Bytes of a text attribute: a page."""
ATTEMPTS = 3
"""Times to ask for a report that was disturbed."""
PAUSE = 0.2
"""Seconds between them; a quoting service or a hypervisor that is busy says so at once."""
AGAIN = frozenset({errno.EBUSY, errno.EAGAIN, errno.EINTR})
WAY = "perunml host doctor"


class TsmReports:
    """A `TeeSource` over configfs. `expected`: which TEE this must be, if any one is meant."""

    def __init__(
        self, tree: Tree | None = None, expected: TeeKind | None = None, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._tree: Tree = tree or Files()
        self._pause = pause
        with _Entry(self._tree) as entry:
            name = entry.text("provider")
        if name not in PROVIDERS:
            raise refuse(ODD_ANSWER, "configfs-tsm has a provider that is not known", expected=" or ".join(PROVIDERS), seen=name)  # fmt: skip
        self._kind: TeeKind = PROVIDERS[name]
        if expected not in (None, self._kind):
            raise refuse(TEE_OTHER, "the machine is in another TEE", expected=str(expected), seen=self._kind)

    @property
    def kind(self) -> TeeKind:
        return self._kind

    def report(self, report_data: bytes) -> TeePart:
        """A `TdxPart` or `SnpPart` over the 64 bytes."""
        out, aux = self._undisturbed(report_data)
        if self._kind == "snp":
            return SnpPart(out, certificates(aux))
        return TdxPart(out, self._beside(CCEL, MAX_EVENT_LOG), self._cmdline())

    def _undisturbed(self, report_data: bytes) -> tuple[bytes, bytes]:
        for attempt in range(ATTEMPTS):
            if attempt:
                self._pause(PAUSE)
            with _Entry(self._tree) as entry:
                if (found := entry.ask(report_data)) is not None:
                    return found
        raise refuse(TEE_BUSY, f"no report in {ATTEMPTS} times of asking", seen=REPORTS, command=WAY)

    def _beside(self, path: str, limit: int) -> bytes:
        """A file that explains the quote, or nothing where there is none: whether it is needed is for the judge to say."""
        if not self._tree.exists(path):
            return b""
        try:
            return self._tree.read(path, limit)
        except OSError as exc:
            raise refuse(
                EVENT_LOG_UNREADABLE, f"no log: {exc.strerror}", expected=f"{limit} bytes", seen=path
            ) from None

    def _cmdline(self) -> str:
        return self._beside(CMDLINE, MAX_CMDLINE).decode("utf-8", "replace").removesuffix("\n")


class _Entry:
    """One request's folder, made when it is entered and removed when it is left, however that is."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._path = f"{REPORTS}/perunml-{secrets.token_hex(8)}"

    def __enter__(self) -> _Entry:
        try:
            self._tree.mkdir(self._path)
        except OSError as exc:
            raise refuse(TEE_UNAVAILABLE, f"no report can be asked for: {exc.strerror}", expected=f"a folder in {REPORTS}", seen=errno.errorcode.get(exc.errno or 0, ""), command=WAY) from None  # fmt: skip
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._tree.rmdir(self._path)
        except OSError as left:
            if exc[0] is None:
                raise _refused(left, self._path) from None

    def text(self, name: str) -> str:
        try:
            return self._tree.read(f"{self._path}/{name}", MAX_ATTRIBUTE).decode("utf-8", "replace").strip()
        except OSError as exc:
            raise _refused(exc, name) from None

    def ask(self, report_data: bytes) -> tuple[bytes, bytes] | None:
        """(outblob, auxblob), or None where the request was disturbed or the TEE is busy."""
        before, writes = self._generation(), 0
        try:
            writes += self._level()
            self._tree.write(f"{self._path}/inblob", report_data)
            writes += 1
            out = self._tree.read(f"{self._path}/outblob", MAX_QUOTE)
            has_aux = self._tree.exists(f"{self._path}/auxblob")
            aux = self._tree.read(f"{self._path}/auxblob", MAX_QUOTE) if has_aux else b""
        except OSError as exc:
            if exc.errno in AGAIN:
                return None
            raise _refused(exc, self._path) from None
        if self._generation() != before + writes:
            return None
        if not out:
            raise refuse(ODD_ANSWER, "the TEE's report is empty", seen=self._path)
        return out, aux

    def _level(self) -> int:
        """Writes made: SEV-SNP's privilege level, where the guest runs below the highest and the kernel demands another."""
        if not self._tree.exists(f"{self._path}/privlevel_floor"):
            return 0
        floor = self.text("privlevel_floor")
        if floor == "0":
            return 0
        self._tree.write(f"{self._path}/privlevel", floor.encode())
        return 1

    def _generation(self) -> int:
        told = self.text("generation")
        if not (told.isascii() and told.isdigit()):
            raise refuse(ODD_ANSWER, "the kernel's count of writes is no number", seen=told)
        return int(told)


def _refused(exc: OSError, where: str) -> PerunError:
    if exc.errno == errno.EFBIG:
        return refuse(ODD_ANSWER, "a TEE's answer is too long", expected=f"{MAX_QUOTE} bytes", seen=where)
    return refuse(TEE_REFUSED, f"no report: {exc.strerror}", seen=where, command=WAY)
