"""An AMD SEV-SNP attestation report, versions 2, 3 and 5 (SEV Secure Nested Paging Firmware ABI, publication 56860, 7.3, tables
ATTESTATION_REPORT and TCB_VERSION). Numbers are little-endian; reserved bytes are zero."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.snp.codes import REPORT_UNSUPPORTED
from perunml.wire.errors import PerunError, refuse

SIZE = 1184
SIGNED = 0x2A0
"""Bytes that the signature covers."""
VERSIONS = (2, 3, 5)
ECDSA_P384_SHA384 = 1
COORDINATE = 72
"""Bytes of R and of S, little-endian, zeros after the 48 that count."""
_SIGNATURE_END = SIGNED + 2 * COORDINATE
_P384 = 48
VCEK, VLEK = 0, 1
DEBUG, MIGRATE = 1 << 19, 1 << 18
SMT, SINGLE_SOCKET, CXL, AES_256_XTS, RAPL_DISABLED, CIPHERTEXT_HIDING, PAGE_SWAP_DISABLED = (
    1 << bit for bit in (16, 20, 21, 22, 23, 24, 25)
)
"""Bits of the guest's policy (GUEST_POLICY)."""
_POLICY_ONE = 1 << 17
"""Reserved, must be one."""
POLICY_KNOWN = (1 << 26) - 1
SMT_ON = 1
"""Of PLATFORM_INFO, as are TSME 2, ECC 4, RAPL off 8, ciphertext hiding 16, alias check done 32, TIO 128."""
PLATFORM_KNOWN = 0xBF
PARTS = ("bootloader", "tee", "snp", "microcode", "fmc")
_HEAD = Struct("<IIQ16s16sIIQQII64s48s32s48s48s32s32s8sBBB21s64s8sBBBBBBBB8sQQ")
_PRODUCTS = (
    # (family, first model, last model, product line): AMD's CPUID families as their revision guides list them
    (0x19, 0x00, 0x0F, "Milan"),
    (0x19, 0x10, 0x1F, "Genoa"),
    (0x19, 0xA0, 0xAF, "Genoa"),
    (0x1A, 0x00, 0x11, "Turin"),
)


@dataclass(frozen=True, slots=True)
class Tcb:
    """A TCB_VERSION's parts; `fmc` is Turin's, -1 elsewhere."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int = -1

    def as_json(self) -> dict[str, int]:
        return {name: value for name in PARTS if (value := getattr(self, name)) >= 0}


@dataclass(frozen=True, slots=True)
class RawReport:
    """What a report says, nothing of it believed. TCB versions are kept as their 8 bytes, for their layout is the product's.

    product     by the CPUID fields of versions 3 and 5; empty in version 2
    signature   R and S as numbers
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    author_key_enabled: bool
    chip_masked: bool
    signing_key: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    reported_tcb: bytes
    product: str
    chip_id: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    launch_mitigations: int
    current_mitigations: int
    signed: bytes
    signature: tuple[int, int]


def parse_report(data: bytes) -> RawReport:
    """Raises `EvidenceRefusal`: non_canonical, report_unsupported."""
    if len(data) != SIZE:
        raise _bad(f"it has {len(data)} bytes, not {SIZE}")
    data = bytes(data)
    (
        version, guest_svn, policy, family_id, image_id, vmpl, algorithm, current_tcb, platform_info, key_info, reserved1,
        report_data, measurement, host_data, id_key, author_key, report_id, _report_id_ma, reported_tcb, family, model, _step,
        reserved2, chip_id, committed_tcb, _b1, _n1, _j1, reserved3, _b2, _n2, _j2, reserved4, launch_tcb, launch_mit, current_mit,
    ) = _HEAD.unpack_from(data)  # fmt: skip
    if version not in VERSIONS:
        expected = ", ".join(map(str, VERSIONS))
        raise refuse(REPORT_UNSUPPORTED, "a report of another version", expected=expected, seen=str(version))
    if algorithm != ECDSA_P384_SHA384:
        raise refuse(REPORT_UNSUPPORTED, "another signature algorithm", expected="1 (ECDSA P-384)", seen=str(algorithm))
    if not policy & _POLICY_ONE or policy & ~POLICY_KNOWN:
        raise refuse(REPORT_UNSUPPORTED, "bits of the guest's policy that are not known", seen=f"{policy:016x}")
    if platform_info & ~PLATFORM_KNOWN:
        raise refuse(REPORT_UNSUPPORTED, "bits of PLATFORM_INFO that are not known", seen=f"{platform_info:#x}")
    if key_info >> 5 or reserved1 or reserved3 or reserved4 or any(data[_HEAD.size : SIGNED] + data[_SIGNATURE_END:]):
        raise _bad("reserved bytes are not zero")
    if version == 2 and (family or model or _step or launch_mit or current_mit):
        raise _bad("version 2 has no processor's family")
    if any(reserved2) or (version < 5 and (launch_mit or current_mit)):
        raise _bad("reserved bytes are not zero")
    return RawReport(
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        current_tcb=current_tcb.to_bytes(8, "little"),
        platform_info=platform_info,
        author_key_enabled=bool(key_info & 1),
        chip_masked=bool(key_info & 2),
        signing_key=key_info >> 2 & 7,
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key,
        author_key_digest=author_key,
        report_id=report_id,
        reported_tcb=reported_tcb,
        product=_product(family, model) if version > 2 else "",
        chip_id=chip_id,
        committed_tcb=committed_tcb,
        launch_tcb=launch_tcb,
        launch_mitigations=launch_mit,
        current_mitigations=current_mit,
        signed=data[:SIGNED],
        signature=(_number(data, SIGNED), _number(data, SIGNED + COORDINATE)),
    )


def read_tcb(raw: bytes, product: str) -> Tcb:
    """The parts of a TCB_VERSION (8 bytes) in the product line's layout. Raises `EvidenceRefusal` (non_canonical): reserved
    bytes that are not zero."""
    if product == "Turin":
        fmc, bootloader, tee, snp, *reserved, microcode = raw
    else:
        bootloader, tee, *reserved, snp, microcode = raw
        fmc = -1
    if any(reserved):
        raise _bad(f"reserved bytes of a TCB version are not zero: {raw.hex()}")
    return Tcb(bootloader, tee, snp, microcode, fmc)


def _product(family: int, model: int) -> str:
    for known, first, last, product in _PRODUCTS:
        if family == known and first <= model <= last:
            return product
    raise refuse(REPORT_UNSUPPORTED, "a processor that is not known", seen=f"family {family:02x}, model {model:02x}")


def _number(data: bytes, at: int) -> int:
    field = data[at : at + COORDINATE]
    if any(field[_P384:]):
        raise _bad("the signature is wider than P-384's")
    return int.from_bytes(field, "little")


def _bad(why: str) -> PerunError:
    return refuse(NON_CANONICAL, f"the report is not of its form: {why}")
