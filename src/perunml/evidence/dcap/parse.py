"""Our own reading of an Intel DCAP quote: SGX (version 3) and TDX (versions 4 and 5). It is the second one beside dcap-qvl's, and
what it says is compared with the first.

Intel SGX ECDSA QuoteLibReference, appendix A.3 and A.4 (Quote formats 3 and 4); Intel TDX DCAP Quoting Library API, appendix A.3
and A.4. Numbers are little-endian. A quote's bytes are malleable (ECDSA, and what no signature covers): they are never an
identity of anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.dcap.codes import QUOTE_UNSUPPORTED
from perunml.evidence.tee.codes import WRONG_TEE
from perunml.wire.errors import PerunError, refuse

SGX, TDX = "sgx", "tdx"
TEE_TYPES = {0x00: SGX, 0x81: TDX}
VERSIONS = {SGX: (3,), TDX: (4, 5)}
ECDSA_P256 = 2
"""Attestation key type: ECDSA-256-with-P-256, the only one in use."""
PCK_CHAIN, QE_REPORT_DATA = 5, 6
"""Certification data types: the PCK certificate chain in PEM, and (version 4 on) the QE's report around it."""
MAX_AUTH = 1024
"""Bytes of the QE's authentication data; Intel's QE has 32."""
MAX_CHAIN = 16 * 1024
"""Bytes of the PCK chain in PEM; three certificates have some 3,700."""
MAX_PADDING = 4096
"""Zero bytes after the quote: Linux's TDX driver hands out a fixed 8,000 byte buffer. No signature covers them and nothing is
read from them; anything but zeros is refused."""
_HEADER = Struct("<HHIHH16s20s")
_SGX_BODY = Struct("<16sI12s16s16s32s32s32s32s64sHHH42s16s64s")
_TD10 = Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_TD15_MORE = Struct("<16s48s")
POINT = 64
"""Bytes of a signature's r ‖ s, and of a P-256 point's x ‖ y."""
_REPORT_DATA = 64
_TD_VARYING = 4 * 48 + _REPORT_DATA
BODY_TYPES = {2: False, 3: True}
"""Version 5's body types: TD report 1.0, and 1.5 with two more fields; 1 is SGX's, which nobody quotes in version 5."""
DEBUG = 1 << 1
"""SGX ATTRIBUTES.FLAGS bit 1."""
TD_DEBUG = 0xFF
"""TDATTRIBUTES bits 0 to 7, TUD: any of them makes the domain untrusted (Intel TDX Module base specification, 22.3)."""
SEPT_VE_DISABLE = 1 << 28


@dataclass(frozen=True, slots=True)
class SgxBody:
    """A REPORTBODY (SGX SDK, sgx_report.h)."""

    cpu_svn: bytes
    misc_select: int
    isv_ext_product_id: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    product_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes

    @property
    def debug(self) -> bool:
        """Whether the enclave's memory can be read from outside."""
        return bool(int.from_bytes(self.attributes[:8], "little") & DEBUG)


@dataclass(frozen=True, slots=True)
class TdxBody:
    """A TD report's body: 1.0, or 1.5 with `tee_tcb_svn2` and `mr_service_td`."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes = b""
    mr_service_td: bytes = b""

    @property
    def td_info(self) -> bytes:
        """What a TD report's TDINFO begins with: attributes to RTMR3."""
        head = self.td_attributes + self.xfam + self.mr_td + self.mr_config_id + self.mr_owner + self.mr_owner_config
        return head + b"".join(self.rtmrs)

    @property
    def debug(self) -> bool:
        """Whether the domain's memory can be read from outside."""
        return bool(int.from_bytes(self.td_attributes, "little") & TD_DEBUG)


@dataclass(frozen=True, slots=True)
class RawQuote:
    """What a quote holds, nothing of it believed.

    signed     the bytes that the attestation key signs: header and body
    varying    where in `signed` that stands which differs between quotes of one TEE: RTMRs and report data, report data alone
    signature  r ‖ s
    certified  all that says whose signature it is: attestation key (x ‖ y first), QE's report, PCK chain
    quote      the quote's own bytes, without padding
    pck_chain  the PCK certificate chain in PEM
    """

    tee: str
    version: int
    qe_svn: int
    pce_svn: int
    user_data: bytes
    body: SgxBody | TdxBody
    signed: bytes
    varying: slice
    signature: bytes
    certified: bytes
    quote: bytes
    pck_chain: bytes

    @property
    def constant(self) -> bytes:
        """`signed` without what varies."""
        return self.signed[: self.varying.start] + self.signed[self.varying.stop :]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = bytes(data), 0

    def take(self, size: int, what: str) -> bytes:
        if size > len(self.data) - self.at:
            raise _bad(f"{what} is cut off: {size} bytes are wanted at offset {self.at} of {len(self.data)}")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def sized(self, size: int, limit: int, what: str) -> bytes:
        length = self.number(size, what)
        if length > limit:
            raise _bad(f"{what} is too long: {length} bytes, at most {limit}")
        return self.take(length, what)


def parse_quote(data: bytes) -> RawQuote:
    """Raises `EvidenceRefusal`: non_canonical, quote_unsupported, wrong_tee."""
    reader = _Reader(data)
    version, key_type, tee_type, first, second, _vendor, user_data = _HEADER.unpack(
        reader.take(_HEADER.size, "the header")
    )
    tee = TEE_TYPES.get(tee_type)
    if tee is None:
        raise refuse(
            QUOTE_UNSUPPORTED, "a quote of no known TEE", expected="00 (SGX) or 81 (TDX)", seen=f"{tee_type:02x}"
        )
    if version not in VERSIONS[tee]:
        expected = " or ".join(map(str, VERSIONS[tee]))
        raise refuse(QUOTE_UNSUPPORTED, f"a quote version that {tee} has not", expected=expected, seen=str(version))
    if key_type != ECDSA_P256:
        raise refuse(
            QUOTE_UNSUPPORTED, "an attestation key of another type", expected="2 (ECDSA P-256)", seen=str(key_type)
        )
    # version 3 has the SVNs where later ones have reserved bytes
    qe_svn, pce_svn = (first, second) if version == 3 else (0, 0)
    body = _body(reader, tee, version)
    signed = reader.data[: reader.at]
    end = reader.number(4, "the signature's length")
    if end > len(reader.data) - reader.at:
        raise _bad("the signature data are cut off")
    end += reader.at
    signature = reader.take(POINT, "the signature")
    certified = reader.at
    reader.take(POINT, "the attestation key")
    if version == 3:
        chain = _qe(reader)
    else:
        kind, size = reader.number(2, "the certification data"), reader.number(4, "the certification data")
        if kind != QE_REPORT_DATA:
            raise refuse(
                QUOTE_UNSUPPORTED, "certification data of another type", expected=str(QE_REPORT_DATA), seen=str(kind)
            )
        if reader.at + size != end:
            raise _bad("the certification data do not fill the signature data")
        chain = _qe(reader)
    if reader.at != end:
        raise _bad(f"{abs(end - reader.at)} bytes of the signature data are not used")
    padding = reader.data[end:]
    if len(padding) > MAX_PADDING or any(padding):
        raise _bad(f"{len(padding)} bytes follow the quote, and they are no padding")
    # report data come last; TD reports 1.5 have two more fields after them
    last = len(signed) - (_TD15_MORE.size if isinstance(body, TdxBody) and body.mr_service_td else 0)
    varying = slice(last - (_TD_VARYING if tee == TDX else _REPORT_DATA), last)
    return RawQuote(
        tee, version, qe_svn, pce_svn, user_data, body, signed, varying, signature, reader.data[certified:end],
        reader.data[:end], chain,
    )  # fmt: skip


def own_length(data: bytes) -> int:
    """How long the quote at the beginning of `data` says that it is; all of `data` where it does not say."""
    try:
        reader = _Reader(data)
        version, _, tee_type, *_ = _HEADER.unpack(reader.take(_HEADER.size, "the header"))
        tee = TEE_TYPES.get(tee_type)
        if tee is None or version not in VERSIONS[tee]:
            return len(data)
        _body(reader, tee, version)
        size = reader.number(4, "the signature's length")
    except PerunError:
        return len(data)
    return min(len(data), reader.at + size)


def _body(reader: _Reader, tee: str, version: int) -> SgxBody | TdxBody:
    if tee == SGX:
        return _sgx(reader)
    longer = False
    if version == 5:
        kind, size = reader.number(2, "the body's type"), reader.number(4, "the body's size")
        if kind not in BODY_TYPES:
            code = WRONG_TEE if kind == 1 else QUOTE_UNSUPPORTED
            raise refuse(code, "a body of another type than a TD report", expected="2 or 3", seen=str(kind))
        longer = BODY_TYPES[kind]
        wanted = _TD10.size + (_TD15_MORE.size if longer else 0)
        if size != wanted:
            raise _bad(f"a body of type {kind} has {wanted} bytes, not {size}")
    fields = _TD10.unpack(reader.take(_TD10.size, "the TD report"))
    more = _TD15_MORE.unpack(reader.take(_TD15_MORE.size, "the TD report")) if longer else (b"", b"")
    (
        tcb_svn, seam, signer_seam, seam_attributes, attributes, xfam, td, config_id, owner, owner_config, rtmr0, rtmr1, rtmr2,
        rtmr3, report_data,
    ) = fields  # fmt: skip
    return TdxBody(
        tcb_svn, seam, signer_seam, seam_attributes, attributes, xfam, td, config_id, owner, owner_config,
        (rtmr0, rtmr1, rtmr2, rtmr3), report_data, more[0], more[1],
    )  # fmt: skip


def _sgx(reader: _Reader) -> SgxBody:
    (
        cpu_svn, misc, reserved1, ext_product, attributes, mr_enclave, reserved2, mr_signer, reserved3, config_id, product, svn,
        config_svn, reserved4, family, report_data,
    ) = _SGX_BODY.unpack(reader.take(_SGX_BODY.size, "the report body"))  # fmt: skip
    if any(reserved1) or any(reserved2) or any(reserved3) or any(reserved4):
        raise _bad("reserved bytes of the report body are not zero")
    return SgxBody(
        cpu_svn, misc, ext_product, attributes, mr_enclave, mr_signer, config_id, product, svn, config_svn, family, report_data,
    )  # fmt: skip


def _qe(reader: _Reader) -> bytes:
    """The QE's report, its signature and authentication data, then the PCK chain."""
    reader.take(_SGX_BODY.size + POINT, "the QE's report")
    reader.sized(2, MAX_AUTH, "the QE's authentication data")
    kind = reader.number(2, "the certification data")
    if kind != PCK_CHAIN:
        what = "the quote brings no PCK certificate chain"
        raise refuse(QUOTE_UNSUPPORTED, what, expected=f"type {PCK_CHAIN}", seen=f"type {kind}")
    return reader.sized(4, MAX_CHAIN, "the PCK chain")


def _bad(why: str) -> PerunError:
    return refuse(NON_CANONICAL, f"the quote is not of its form: {why}")
