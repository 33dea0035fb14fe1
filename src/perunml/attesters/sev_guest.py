"""SEV-SNP reports through `/dev/sev-guest`, on kernels that have no configfs-tsm (5.19 to 6.6).

Structures are those of Linux's include/uapi/linux/sev-guest.h; addresses in them are this process's.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perunml.attesters.codes import ODD_ANSWER, TEE_BUSY, TEE_REFUSED, TEE_UNAVAILABLE
from perunml.attesters.snp_table import certificates
from perunml.attesters.tee import TeeKind
from perunml.evidence.binding import REPORT_DATA_SIZE
from perunml.evidence.parts import SnpPart
from perunml.wire.errors import refuse

DEVICE = "dev/sev-guest"
SNP_GET_REPORT, SNP_GET_EXT_REPORT = 0xC0205300, 0xC0205302
"""_IOWR('S', 0 and 2, 32 bytes)."""
REQUEST = struct.Struct(f"<{REPORT_DATA_SIZE}sI28x")
"""struct snp_report_req: user_data, vmpl, reserved."""
EXTENDED = struct.Struct(f"<{REQUEST.size}sQI4x")
"""struct snp_ext_report_req: the request, where certificates go, how many bytes there are."""
COMMAND = struct.Struct("<B7xQQQ")
"""struct snp_guest_request_ioctl: message version, addresses of request and response, errors of firmware and hypervisor."""
RESPONSE_SIZE = 4000
RESPONSE_HEAD = struct.Struct("<II24x")
"""MSG_REPORT_RSP (SEV-SNP firmware ABI, table 23): status, size of the report behind it."""
CERTIFICATES_SIZE = 4 * mmap.PAGESIZE
"""SEV_FW_BLOB_MAX_SIZE, the most that the kernel takes, 16 KiB; a whole number of pages."""
ATTEMPTS = 3
PAUSE = 0.5
"""Seconds: the firmware is asked again by the kernel every two seconds when it is throttled."""
AGAIN = frozenset({errno.EBUSY, errno.EAGAIN, errno.EINTR})
WAY = "perunml host doctor"

Ioctl = Callable[[int, int, Any], Any]


class SevGuest:
    """A `TeeSource`: the device below `root`, spoken to by `ioctl`."""

    def __init__(
        self, root: Path = Path("/"), ioctl: Ioctl = fcntl.ioctl, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._path, self._ioctl, self._pause = root / DEVICE, ioctl, pause
        os.close(self._open())

    @property
    def kind(self) -> TeeKind:
        return "snp"

    def report(self, report_data: bytes) -> SnpPart:
        """A report for VMPL 0, with the hypervisor's certificates where it hands out any: a manager has them otherwise."""
        descriptor = self._open()
        try:
            for attempt in range(ATTEMPTS):
                if attempt:
                    self._pause(PAUSE)
                try:
                    return self._ask(descriptor, report_data)
                except OSError as exc:
                    if exc.errno not in AGAIN:
                        raise refuse(TEE_REFUSED, f"no report: {exc.strerror}", seen=str(self._path), command=WAY) from None  # fmt: skip
        finally:
            os.close(descriptor)
        raise refuse(TEE_BUSY, f"no report in {ATTEMPTS} times of asking", seen=str(self._path), command=WAY)

    def _ask(self, descriptor: int, report_data: bytes) -> SnpPart:
        request = REQUEST.pack(report_data, 0)
        with mmap.mmap(-1, CERTIFICATES_SIZE) as place:  # whole pages, as the kernel wants them
            window = (ctypes.c_char * CERTIFICATES_SIZE).from_buffer(place)
            extended = EXTENDED.pack(request, ctypes.addressof(window), CERTIFICATES_SIZE)
            try:
                report = self._command(descriptor, SNP_GET_EXT_REPORT, extended)
                return SnpPart(report, certificates(window.raw))
            except OSError as exc:
                if exc.errno in AGAIN:
                    raise
            finally:
                del window  # the map cannot be closed while it is pointed into
        # a hypervisor that hands out no table, or one larger than the kernel takes, may still have reports
        return SnpPart(self._command(descriptor, SNP_GET_REPORT, request))

    def _command(self, descriptor: int, command: int, request: bytes) -> bytes:
        """The report in the firmware's answer. Raises `OSError` where the kernel refuses."""
        asked = ctypes.create_string_buffer(request, len(request))
        answer = ctypes.create_string_buffer(RESPONSE_SIZE)
        told = bytearray(COMMAND.pack(1, ctypes.addressof(asked), ctypes.addressof(answer), 0))
        try:
            self._ioctl(descriptor, command, told)
        except OSError as exc:
            (error,) = struct.unpack_from("<Q", told, COMMAND.size - 8)
            said = f"{exc.strerror}, firmware {error & 0xFFFFFFFF:#x}, hypervisor {error >> 32}"
            raise OSError(exc.errno, said) from None
        status, size = RESPONSE_HEAD.unpack_from(answer.raw)
        if status or not 0 < size <= RESPONSE_SIZE - RESPONSE_HEAD.size:
            raise refuse(ODD_ANSWER, "the firmware's answer holds no report", seen=f"status {status}, {size} bytes")
        return answer.raw[RESPONSE_HEAD.size : RESPONSE_HEAD.size + size]

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            raise refuse(TEE_UNAVAILABLE, f"no report can be asked for: {exc.strerror}", expected="/dev/sev-guest", seen=str(self._path), command=WAY) from None  # fmt: skip
