"""The root key in the processor's keeping: it opens on this processor, for the measurement of what sealed it.

SGX under Gramine gives a key for the enclave's MRENCLAVE as a file; SEV-SNP's firmware derives one from guest policy, launch
measurement, family and image ids. TDX has none.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Sequence
from ctypes import addressof, c_char, create_string_buffer
from pathlib import Path
from typing import Any

from perunml.api.trust import Origin
from perunml.manager.codes import CUSTODY_UNAVAILABLE
from perunml.manager.custody import Kept, kept_as, open_under, read_head, seal_under
from perunml.wire.errors import PerunError, refuse

GRAMINE_KEY = Path("/dev/attestation/keys/_sgx_mrenclave")
GRAMINE_KEY_SIZE = 16
"""Bytes: SGX's EGETKEY gives 128 bits."""
SEV_GUEST = Path("/dev/sev-guest")
SNP_GET_DERIVED_KEY = 0xC0205301
"""_IOWR('S', 1, 32 bytes), Linux include/uapi/linux/sev-guest.h."""
SNP_FIELDS = 0b1111
"""GUEST_FIELD_SELECT: guest policy, image id, family id, measurement (SEV-SNP firmware ABI, MSG_KEY_REQ)."""
SNP_RESPONSE = 64
SNP_KEY = slice(32, 64)

Ioctl = Callable[[int, int, Any], Any]
SealingKey = Callable[[], bytes]


class TeeCustody:
    """The TEE `tee` (``sgx`` or ``snp``), whose sealing key `sealing_key` asks for."""

    def __init__(self, tee: str, sealing_key: SealingKey) -> None:
        self._tee, self._sealing_key = tee, sealing_key

    @property
    def kept(self) -> Kept:
        return Kept("tee")

    def seal(self, root: bytes, origin: Sequence[Origin] = (), *, counted: bool = False) -> bytes:
        """Raises `UsageError` (custody_unavailable)."""
        return seal_under(self._sealing_key(), root, {"kind": "tee", "tee": self._tee}, origin, counted)

    def open(self, data: bytes) -> tuple[bytes, Kept]:
        """Raises `IntegrityError` (custody_elsewhere: another processor, or another measurement; state_damaged), `UsageError`
        (custody_unavailable)."""
        document = read_head(data, "tee", {"tee"})
        root = open_under(self._sealing_key(), document, "TEE")
        return root, kept_as(document, "tee")

    def __repr__(self) -> str:
        return f"<TeeCustody {self._tee}>"


def tee_custody(tee: str) -> TeeCustody:
    """The custody of the TEE that this runs in. Raises `UsageError` (custody_unavailable) for one that has no sealing key."""
    if tee == "sgx":
        return TeeCustody(tee, gramine_key)
    if tee == "snp":
        return TeeCustody(tee, snp_key)
    raise refuse(
        CUSTODY_UNAVAILABLE,
        "TDX gives what runs in it no key of its own to seal with" if tee == "tdx" else "not a TEE with a sealing key",
        expected="sgx or snp; else a TPM, or a passphrase for development",
        seen=tee,
    )


def gramine_key(path: Path = GRAMINE_KEY) -> bytes:
    """The enclave's sealing key by MRENCLAVE, as Gramine gives it. Raises `UsageError` (custody_unavailable)."""
    try:
        key = path.read_bytes()
    except OSError as exc:
        raise _unavailable(path, exc) from None
    if len(key) != GRAMINE_KEY_SIZE or not any(key):
        raise refuse(CUSTODY_UNAVAILABLE, "not an enclave's sealing key", expected=f"{GRAMINE_KEY_SIZE} bytes")
    return key


def snp_key(device: Path = SEV_GUEST, ioctl: Ioctl = fcntl.ioctl) -> bytes:
    """The guest's derived key (32 bytes), under the chip's own root and for VMPL 0. Raises `UsageError`
    (custody_unavailable)."""
    request = create_string_buffer(struct.pack("<IIQIIQ", 0, 0, SNP_FIELDS, 0, 0, 0), 32)
    response = (c_char * SNP_RESPONSE)()
    command = bytearray(struct.pack("<B7xQQQ", 1, addressof(request), addressof(response), 0))
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            ioctl(descriptor, SNP_GET_DERIVED_KEY, command)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise _unavailable(device, exc) from None
    status, key = int.from_bytes(response.raw[:4], "little"), response.raw[SNP_KEY]
    response.raw = bytes(SNP_RESPONSE)
    if status or not any(key):
        raise refuse(CUSTODY_UNAVAILABLE, "the firmware gives no derived key", seen=f"status {status}")
    return key


def _unavailable(path: Path, exc: OSError) -> PerunError:
    return refuse(CUSTODY_UNAVAILABLE, f"no sealing key: {exc.strerror or exc}", seen=str(path))
