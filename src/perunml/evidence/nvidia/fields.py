"""What the opaque data of a report say, by NVIDIA's field numbers (published with its verifiers), and how the values are written.

Every field is signed by the device. A field that is missing, or of an odd size, where it is needed, is refused; one that is
not known here is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perunml.evidence.codes import NON_CANONICAL
from perunml.wire.errors import PerunError, refuse

DRIVER_VERSION, GPU_INFO, VBIOS_VERSION = 3, 4, 6
NVDEC0_STATUS = 11
CHIP_SKU, PROJECT, PROJECT_SKU, FWID = 15, 17, 18, 20
PROTECTED_PCIE = 21
SWITCH_PDI, SWITCH_LOCK, SWITCH_GPUS = 22, 25, 26
DATA_VERSION, CHIP_INFO, FEATURE_FLAG = 34, 35, 36

ON, OFF = b"\xaa", b"\x55"
"""How the device writes a yes and a no: far apart, so that a flipped bit is neither."""
PDI_SIZE = 8
"""Bytes of a device's permanent identifier."""
SWITCH_GPU_SLOTS = 8
"""GPUs of a node that a switch names; what follows them in the field are ports."""
FWID_SIZE = 48
NVDEC0_INDEX = 35
"""The measurement (from 0) of the video decoder, compared only where the decoder is on."""

SPT, MPT, PPCIE, CC, UNSTATED = "spt", "mpt", "ppcie", "cc", "unstated"
"""Modes: one GPU passed through, several, protected PCIe (all GPUs and switches of a node; NVLink is not encrypted), confidential
computing as older drivers say it (no more than: not protected PCIe), and nothing said."""
MODES = (CC, MPT, PPCIE, SPT, UNSTATED)
_FLAGS = {0: SPT, 1: MPT, 2: PPCIE}


@dataclass(frozen=True, slots=True)
class GpuFields:
    """Of a GPU: versions as NVIDIA's manifests write them; `fwid` empty where an old driver's report has none; `mode` one of `MODES`; `skipped` measurements (from 0) that are not
    compared; `switches` the permanent identifiers of the NVSwitches it is wired to."""

    driver: str
    vbios: str
    board: str
    chip: str
    fwid: bytes
    mode: str
    skipped: frozenset[int]
    switches: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class SwitchFields:
    """Of an NVSwitch: its firmware's version, the permanent identifiers of the GPUs wired to it, and whether its configuration is
    locked."""

    vbios: str
    gpus: frozenset[bytes]
    locked: bool


def gpu_fields(fields: Mapping[int, bytes]) -> GpuFields:
    """Raises `EvidenceRefusal` (non_canonical)."""
    board = "_".join(_text(fields, kind).upper() for kind in (PROJECT, PROJECT_SKU, CHIP_SKU))
    switches = fields.get(SWITCH_PDI, b"")
    if len(switches) % PDI_SIZE:
        raise _bad(SWITCH_PDI, switches)
    return GpuFields(
        driver=_text(fields, DRIVER_VERSION),
        vbios=_vbios(_sized(fields, VBIOS_VERSION, 8)),
        board=board,
        chip=_text(fields, CHIP_INFO).upper() if CHIP_INFO in fields else "",
        fwid=_sized(fields, FWID, FWID_SIZE) if FWID in fields else b"",
        mode=_mode(fields),
        skipped=frozenset() if _switch(fields, NVDEC0_STATUS) else frozenset({NVDEC0_INDEX}),
        # a GPU writes a switch's identifier in the other byte order than the switch itself
        switches=_identifiers(switches, reverse=True),
    )


def switch_fields(fields: Mapping[int, bytes]) -> SwitchFields:
    """Raises `EvidenceRefusal` (non_canonical)."""
    wired = _needed(fields, SWITCH_GPUS)
    if len(wired) < SWITCH_GPU_SLOTS * PDI_SIZE:
        raise _bad(SWITCH_GPUS, wired)
    return SwitchFields(
        vbios=_text(fields, VBIOS_VERSION).upper(),
        gpus=_identifiers(wired[: SWITCH_GPU_SLOTS * PDI_SIZE]),
        locked=int.from_bytes(_sized(fields, SWITCH_LOCK, 2), "little") == 1,
    )


def _mode(fields: Mapping[int, bytes]) -> str:
    version = _small(fields, DATA_VERSION) if DATA_VERSION in fields else 0
    if FEATURE_FLAG in fields:
        flag = _small(fields, FEATURE_FLAG)
        if flag not in _FLAGS:
            raise refuse(NON_CANONICAL, "the GPU's report tells a mode that is not known", seen=str(flag))
        return _FLAGS[flag]
    if version:
        raise refuse(NON_CANONICAL, "the GPU's report lacks the mode that its version has", seen=f"version {version}")
    if PROTECTED_PCIE in fields:
        return PPCIE if _switch(fields, PROTECTED_PCIE) else CC
    return UNSTATED


def _vbios(raw: bytes) -> str:
    """``96.00.9F.00.01``: the upper half of a 64-bit number reversed in the report holds a last part, the lower the rest."""
    head, tail = raw[3::-1], raw[4:5]
    if any(raw[5:]):
        raise _bad(VBIOS_VERSION, raw)
    return ".".join(f"{byte:02X}" for byte in head + tail)


def _identifiers(raw: bytes, *, reverse: bool = False) -> frozenset[bytes]:
    """The identifiers that are not zero: a link that is off has zeros."""
    found = (raw[at : at + PDI_SIZE] for at in range(0, len(raw), PDI_SIZE))
    return frozenset(one[::-1] if reverse else one for one in found if any(one))


def _needed(fields: Mapping[int, bytes], kind: int) -> bytes:
    if kind not in fields:
        raise refuse(NON_CANONICAL, f"the report lacks opaque field {kind}")
    return fields[kind]


def _sized(fields: Mapping[int, bytes], kind: int, size: int) -> bytes:
    raw = _needed(fields, kind)
    if len(raw) != size:
        raise _bad(kind, raw)
    return raw


def _small(fields: Mapping[int, bytes], kind: int) -> int:
    raw = _needed(fields, kind)
    if not 1 <= len(raw) <= 8:
        raise _bad(kind, raw)
    return int.from_bytes(raw, "little")


def _switch(fields: Mapping[int, bytes], kind: int) -> bool:
    raw = _needed(fields, kind)
    if raw not in (ON, OFF):
        raise _bad(kind, raw)
    return raw == ON


def _text(fields: Mapping[int, bytes], kind: int) -> str:
    """ASCII, padded with zeros."""
    raw = _needed(fields, kind).rstrip(b"\0")
    if not raw or not all(0x21 <= byte <= 0x7E for byte in raw):
        raise _bad(kind, fields[kind])
    return raw.decode("ascii")


def _bad(kind: int, raw: bytes) -> PerunError:
    return refuse(NON_CANONICAL, f"opaque field {kind} of the report is not of its form", seen=raw.hex())
