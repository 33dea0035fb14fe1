"""A kernel for these tests: its files behave as Linux's do, below a folder; what signs is handed in.

`Kernel` is a `Tree` with configfs-tsm (drivers/virt/coco/tsm.c): an entry's report is made from its `inblob` when `outblob` is
read first after a write, and `generation` counts the writes. `sev_ioctl` is the driver behind /dev/sev-guest.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from perunml.attesters.tree import Files

REPORTS = "/sys/kernel/config/tsm/report"
CCEL = "sys/firmware/acpi/tables/data/CCEL"
VCEK, VLEK = UUID("63da758d-e664-4564-adc5-f4b93be8accd"), UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
ASK, ARK = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"), UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")
Signer = Callable[[bytes], bytes]


def snp_report(report_data: bytes) -> bytes:
    """As long as one, with the report data where they belong (SEV-SNP firmware ABI, table 22)."""
    return bytes(0x50) + report_data + bytes(1184 - 0x50 - 64)


def tdx_quote(report_data: bytes) -> bytes:
    """As a version 4 quote has them."""
    return b"\x04\x00\x02\x00\x81" + bytes(563) + report_data + bytes(100)


def der(name: str, size: int = 300) -> bytes:
    """Of a certificate's form, told apart by `name`."""
    return b"\x30\x82" + size.to_bytes(2) + name.encode().ljust(size, b".")


def table(entries: Sequence[tuple[UUID, bytes]], little: bool = False) -> bytes:
    """The GHCB's certificate table."""
    head, body = b"", b""
    start = 24 * (len(entries) + 1)
    for guid, data in entries:
        head += (guid.bytes_le if little else guid.bytes) + struct.pack("<II", start + len(body), len(data))
        body += data
    return head + bytes(24) + body


CHAIN = table([(ARK, der("ark")), (ASK, der("ask")), (VCEK, der("vcek"))])


class Kernel(Files):
    """The files below `root`, and configfs-tsm where there is a provider.

    provider  ``tdx_guest`` or ``sev_guest``; empty: the folder of reports is there and nobody behind it (ENXIO)
    sign      makes the report
    aux       what the auxiliary blob holds; None: there is no such file
    floor     the privilege level from which on the guest may ask; None: there is no such file
    disturb   how many of the next requests another program writes into
    fail      an errno that making a report ends with, for the next `failures` times
    """

    def __init__(
        self,
        root: Path,
        provider: str = "",
        sign: Signer = tdx_quote,
        aux: bytes | None = None,
        floor: int | None = None,
    ) -> None:
        super().__init__(root)
        self.provider, self.sign, self.aux, self.floor = provider, sign, aux, floor
        self.disturb, self.fail, self.failures, self.lost = 0, 0, 0, 0
        self.entries: dict[str, dict[str, Any]] = {}
        self.made = 0
        if provider:
            (root / REPORTS.removeprefix("/")).mkdir(parents=True, exist_ok=True)

    def _entry(self, path: str) -> tuple[dict[str, Any], str] | None:
        folder, _, name = path.rpartition("/")
        if not folder.startswith(REPORTS + "/"):
            return None
        if folder not in self.entries or name not in self._names():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.entries[folder], name

    def _names(self) -> set[str]:
        names = {"inblob", "outblob", "provider", "generation"}
        names |= {"auxblob"} if self.aux is not None else set()
        return names | ({"privlevel", "privlevel_floor"} if self.floor is not None else set())

    def mkdir(self, path: str) -> None:
        if not path.startswith(REPORTS + "/") or not self.exists(REPORTS):
            super().mkdir(path)
            return
        if not self.provider:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), path)
        self.entries[path] = {"generation": 0, "read": 0, "in": b"", "out": b"", "level": 0}
        self.made += 1

    def rmdir(self, path: str) -> None:
        if path not in self.entries:
            super().rmdir(path)
        else:
            del self.entries[path]

    def exists(self, path: str) -> bool:
        if path.startswith(REPORTS + "/"):
            folder, _, name = path.rpartition("/")
            return path in self.entries or (folder in self.entries and name in self._names())
        return super().exists(path)

    def write(self, path: str, data: bytes) -> None:
        if (found := self._entry(path)) is None:
            super().write(path, data)
            return
        entry, name = found
        assert name in ("inblob", "privlevel")
        if name == "privlevel":
            if int(data) < (self.floor or 0) or int(data) > 3:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
            entry["level"] = int(data)
        elif self.lost:
            self.lost -= 1  # configfs tells nobody when a binary file's write fails
            return
        else:
            entry["in"] = data
        entry["generation"] += 1

    def read(self, path: str, limit: int) -> bytes:
        if (found := self._entry(path)) is None:
            return super().read(path, limit)
        entry, name = found
        if name == "outblob":
            data = self._report(entry, path)
        else:
            data = {
                "generation": f"{entry['generation']}\n".encode(),
                "provider": f"{self.provider}\n".encode(),
                "auxblob": self.aux or b"",
                "privlevel_floor": f"{self.floor}\n".encode(),
            }[name]
        if len(data) > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return data

    def _report(self, entry: dict[str, Any], path: str) -> bytes:
        if self.disturb:
            self.disturb -= 1
            entry["in"] = bytes(64)
            entry["generation"] += 1
        if not entry["in"]:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        if self.failures or entry["level"] < (self.floor or 0):
            self.failures = max(0, self.failures - 1)
            number = self.fail or errno.EIO
            raise OSError(number, os.strerror(number), path)
        if not entry["out"] or entry["read"] != entry["generation"]:
            entry["out"], entry["read"] = self.sign(entry["in"]), entry["generation"]
        return bytes(entry["out"])


class SevDriver:
    """The ioctl behind /dev/sev-guest, as sev-guest.c has it; `errors`: errno of the next calls."""

    def __init__(self, sign: Signer = snp_report, certificates: bytes | None = CHAIN) -> None:
        self.sign, self.certificates = sign, certificates
        self.errors: list[int] = []
        self.status = 0
        self.calls: list[int] = []

    def __call__(self, descriptor: int, command: int, told: bytearray) -> int:
        os.fstat(descriptor)
        self.calls.append(command)
        assert len(told) == 32
        assert command >> 30 == 3
        assert command >> 16 & 0x3FFF == 32
        version, request, response, _ = struct.unpack("<B7xQQQ", told)
        assert version == 1
        if self.errors:
            self._refuse(told, self.errors.pop(0), 0)
        asked = ctypes.string_at(request, 112 if command & 0xFF == 2 else 96)
        assert asked[64:96] == bytes(32)
        if command & 0xFF == 2:
            self._hand_out(told, *struct.unpack_from("<QI", asked, 96))
        report = self.sign(asked[:64])
        answer = struct.pack("<II24x", self.status, len(report)) + report
        ctypes.memmove(response, answer.ljust(4000, b"\0"), 4000)
        return 0

    def _hand_out(self, told: bytearray, address: int, size: int) -> None:
        assert address % 4096 == 0
        assert size % 4096 == 0
        if self.certificates is None:
            return
        if len(self.certificates) > size:
            self._refuse(told, errno.EIO, 1)  # SNP_GUEST_VMM_ERR_INVALID_LEN
        ctypes.memmove(address, self.certificates, len(self.certificates))

    @staticmethod
    def _refuse(told: bytearray, number: int, hypervisor: int) -> None:
        told[24:] = struct.pack("<Q", hypervisor << 32)
        raise OSError(number, os.strerror(number))
