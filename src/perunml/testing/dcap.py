"""Forges Intel evidence: SGX quotes (version 3), TDX quotes (4 and 5) and the complete collateral, under a development root. Everything
verifies; each field can be set, so that each check can be broken alone.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perunml.evidence.endorsements import Collateral, Endorsements, Seen
from perunml.testing.intelca import IntelCa, Pck, new_key, point, sgx_extension, sign

NOW = 1_790_000_000
"""Seconds since 1970: within what forged collateral holds for."""
DAY = 86_400
FMSPC = bytes.fromhex("50806F000000")
VENDOR = bytes.fromhex("939A7233F79C4CA9940A0DB3957F0607")
"""Intel's QE, as a quote's header names it."""
QE_SIGNERS = {"sgx": hashlib.sha256(b"development QE").digest(), "tdx": hashlib.sha256(b"development TD QE").digest()}
SEPT_VE_DISABLE = (1 << 28).to_bytes(8, "little")
XFAM = bytes.fromhex("e702060000000000")
PRODUCTION = bytes.fromhex("0500000000000000e700000000000000")
"""SGX attributes: INIT, 64 bit; XFRM."""
DEBUG = bytes.fromhex("0700000000000000e700000000000000")
UP_TO_DATE, OUT_OF_DATE, REVOKED = "UpToDate", "OutOfDate", "Revoked"
CPU_SVN = bytes([5, 5, 2, 2, 3, 1, 0, 3, *bytes(8)])
TDX_SVN = bytes([5, 1, 2, *bytes(13)])
PCE_SVN = 11
SGX_FIELDS: Mapping[str, bytes] = {
    "cpu_svn": CPU_SVN,
    "misc_select": bytes(4),
    "reserved1": bytes(12),
    "isv_ext_product_id": bytes(16),
    "attributes": PRODUCTION,
    "mr_enclave": hashlib.sha256(b"enclave").digest(),
    "reserved2": bytes(32),
    "mr_signer": hashlib.sha256(b"signer").digest(),
    "reserved3": bytes(32),
    "config_id": bytes(64),
    "product_id": (7).to_bytes(2, "little"),
    "isv_svn": (3).to_bytes(2, "little"),
    "config_svn": bytes(2),
    "reserved4": bytes(42),
    "isv_family_id": bytes(16),
    "report_data": bytes(64),
}
"""A REPORTBODY in its order."""
TDX_FIELDS: Mapping[str, bytes] = {
    "tee_tcb_svn": TDX_SVN,
    "mr_seam": hashlib.sha384(b"module").digest(),
    "mr_signer_seam": bytes(48),
    "seam_attributes": bytes(8),
    "td_attributes": SEPT_VE_DISABLE,
    "xfam": XFAM,
    "mr_td": hashlib.sha384(b"domain").digest(),
    "mr_config_id": bytes(48),
    "mr_owner": bytes(48),
    "mr_owner_config": bytes(48),
    **{f"rtmr{index}": hashlib.sha384(b"rtmr%d" % index).digest() for index in range(4)},
    "report_data": bytes(64),
}
"""A TD report 1.0's body in its order."""
TDX15_FIELDS: Mapping[str, bytes] = {"tee_tcb_svn2": TDX_SVN, "mr_service_td": bytes(48)}


@dataclass(frozen=True, slots=True)
class Says:
    """What the forged vendor says of a kind of platforms.

    levels      (status, the least SVN parts, the least PCE SVN, advisories), the best first
    module      TDX_01's levels: (status, the least SVN)
    qe_levels   (status, the least SVN) of the quoting enclave
    revoked     serial numbers on the PCK CA's list; `revoked_by_root` on the root's
    """

    number: int = 18
    qe_number: int = 18
    issued: int = NOW - DAY
    until: int = NOW + 29 * DAY
    qe_issued: int = NOW - DAY
    qe_until: int = NOW + 29 * DAY
    crl_issued: int = NOW - DAY
    crl_until: int = NOW + 29 * DAY
    root_crl_until: int = NOW + 364 * DAY
    levels: tuple[tuple[str, bytes, int, tuple[str, ...]], ...] = ((UP_TO_DATE, CPU_SVN, PCE_SVN, ()),)
    tdx_svn: bytes = TDX_SVN
    module: tuple[tuple[str, int], ...] = ((UP_TO_DATE, 5),)
    module_signer: bytes = bytes(48)
    qe_levels: tuple[tuple[str, int], ...] = ((UP_TO_DATE, 4),)
    qe_signer: bytes = b""
    qe_product: int = 0
    revoked: Sequence[int] = ()
    revoked_by_root: Sequence[int] = ()
    crl_forged: bool = False
    root_crl_forged: bool = False


@dataclass
class ForgedIntel:
    """Vendor and platform in one: a root, a PCK for one platform, a quoting enclave that signs what it is told.

    other fields   what the PCK certificate says
    """

    ca: IntelCa = field(default_factory=IntelCa)
    fmspc: bytes = FMSPC
    ppid: bytes = hashlib.sha256(b"platform").digest()[:16]
    instance: bytes | None = hashlib.sha256(b"instance").digest()[:16]
    cpu_svn: bytes = CPU_SVN
    pce_svn: int = PCE_SVN
    sgx_type: int = 1
    configuration: tuple[bool, bool, bool] | None = (False, True, True)
    pck_end: dt.datetime | None = None

    def __post_init__(self) -> None:
        extension = sgx_extension(
            fmspc=self.fmspc,
            ppid=self.ppid,
            cpu_svn=self.cpu_svn,
            pce_svn=self.pce_svn,
            sgx_type=self.sgx_type,
            instance=self.instance,
            configuration=self.configuration,
        )
        self.pck: Pck = self.ca.pck(extension, end=self.pck_end)
        self._key = new_key()
        self._reports: dict[bytes, bytes] = {}

    @property
    def root(self) -> bytes:
        """DER, for `Endorsements.simulated_roots`."""
        return self.ca.root

    def sgx_quote(self, report_data: bytes = bytes(64), *, quoting: Quoting | None = None, **fields: bytes) -> bytes:
        """A version 3 quote; `fields` are those of `SGX_FIELDS`."""
        body = packed({**SGX_FIELDS, "report_data": report_data}, fields)
        return self.quote(body, quoting or Quoting("sgx", 3))

    def tdx_quote(
        self, report_data: bytes = bytes(64), *, version: int = 4, quoting: Quoting | None = None, **fields: bytes
    ) -> bytes:
        """A version 4 quote of a TD report 1.0, or a version 5 quote of a TD report 1.5; `fields` are those of `TDX_FIELDS`,
        for version 5 also of `TDX15_FIELDS`."""
        more = TDX15_FIELDS if version == 5 else {}
        body = packed({**TDX_FIELDS, "report_data": report_data, **more}, fields)
        if version == 5:
            body = (3).to_bytes(2, "little") + len(body).to_bytes(4, "little") + body
        return self.quote(body, quoting or Quoting("tdx", version))

    def quote(self, body: bytes, quoting: Quoting) -> bytes:
        """Any body, signed; header and QE as `quoting` says."""
        header = quoting.header()
        auth = quoting.qe_auth
        told = hashlib.sha256(point(self._key) + (quoting.qe_told or auth)).digest() + bytes(32)
        svns = {"isv_svn": quoting.qe_svn.to_bytes(2, "little")}
        product = {"product_id": (quoting.qe_product or (1 if quoting.tee == "sgx" else 2)).to_bytes(2, "little")}
        signer = {"mr_signer": quoting.qe_signer or QE_SIGNERS[quoting.tee]}
        attributes = {"attributes": bytes.fromhex("1500000000000000e700000000000000")}
        report = packed(
            {**SGX_FIELDS, "report_data": told, **svns, **product, **signer, **attributes}, quoting.qe_fields
        )
        qe = report + self._certification(report, quoting) + len(auth).to_bytes(2, "little") + auth
        chain = quoting.chain or self.pck.chain
        qe += quoting.certification.to_bytes(2, "little") + len(chain).to_bytes(4, "little") + chain
        if quoting.version != 3:
            qe = (6).to_bytes(2, "little") + len(qe).to_bytes(4, "little") + qe
        signature = sign(quoting.signed_by or self._key, header + body) + point(self._key) + qe
        return header + body + len(signature).to_bytes(4, "little") + signature + quoting.padding

    def _certification(self, report: bytes, quoting: Quoting) -> bytes:
        """The PCK's signature over the QE's report: made once for an attestation key, and the same in each of its quotes."""
        if quoting.qe_signed_by is not None:
            return sign(quoting.qe_signed_by, report)
        if report not in self._reports:
            self._reports[report] = sign(self.pck.key, report)
        return self._reports[report]

    def collateral(self, tee: str, says: Says | None = None) -> bytes:
        """What the vendor says, in dcap-qvl's JSON form."""
        says = says or Says()
        tcb, qe = (
            json.dumps(made, separators=(",", ":")) for made in (self.tcb_info(tee, says), qe_identity(tee, says))
        )
        made = {
            "pck_crl_issuer_chain": self.ca.pck_ca_chain,
            "root_ca_crl": self._crl(says, by_root=True).hex(),
            "pck_crl": self._crl(says, by_root=False).hex(),
            "tcb_info_issuer_chain": self.ca.tcb_chain,
            "tcb_info": tcb,
            "tcb_info_signature": self.ca.sign_tcb(tcb.encode()),
            "qe_identity_issuer_chain": self.ca.tcb_chain,
            "qe_identity": qe,
            "qe_identity_signature": self.ca.sign_tcb(qe.encode()),
        }
        return json.dumps(made).encode()

    def endorsements(
        self, *tees: str, says: Says | None = None, seen: Mapping[str, Seen] | None = None, trusted: bool = True
    ) -> Endorsements:
        """Collateral of these TEEs (none named: both) and, where `trusted`, the development root."""
        items = tuple(self.collateral(tee, says) for tee in tees or ("sgx", "tdx"))
        return Endorsements(Collateral(NOW, dcap=items), (self.root,) if trusted else (), seen or {})

    def _crl(self, says: Says, *, by_root: bool) -> bytes:
        return self.ca.revocations(
            says.revoked_by_root if by_root else says.revoked,
            by_root=by_root,
            since=_date(says.crl_issued),
            until=_date(says.root_crl_until if by_root else says.crl_until),
            forged=says.root_crl_forged if by_root else says.crl_forged,
        )

    def tcb_info(self, tee: str, says: Says) -> dict[str, Any]:
        """TCB info version 3 (PCS API version 4)."""
        made: dict[str, Any] = {
            "id": tee.upper(),
            "version": 3,
            "issueDate": _text(says.issued),
            "nextUpdate": _text(says.until),
            "fmspc": self.fmspc.hex().upper(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": says.number,
        }
        if tee == "tdx":
            module = {
                "mrsigner": says.module_signer.hex().upper(),
                "attributes": "00" * 8,
                "attributesMask": "FF" * 8,
            }
            levels = [
                {"tcb": {"isvsvn": svn}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status}
                for status, svn in says.module
            ]
            made |= {"tdxModule": module, "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": levels}]}
        made["tcbLevels"] = [
            {
                "tcb": {
                    "sgxtcbcomponents": _components(svns),
                    "pcesvn": pce,
                    **({"tdxtcbcomponents": _components(says.tdx_svn)} if tee == "tdx" else {}),
                },
                "tcbDate": "2026-01-01T00:00:00Z",
                "tcbStatus": status,
                **({"advisoryIDs": list(advisories)} if advisories else {}),
            }
            for status, svns, pce, advisories in says.levels
        ]
        return made


@dataclass(frozen=True, slots=True)
class Quoting:
    """How a quote is made around its body; None and empty: as an honest quoting enclave does.

    tee_type, key_type   what the header says
    qe_told              the authentication data that the QE's report is over, where it is to be other than what is sent
    """

    tee: str
    version: int
    tee_type: int | None = None
    key_type: int = 2
    vendor: bytes = VENDOR
    qe_svn: int = 4
    qe_product: int = 0
    qe_signer: bytes = b""
    qe_auth: bytes = bytes(range(32))
    qe_told: bytes = b""
    qe_fields: Mapping[str, bytes] = field(default_factory=dict)
    qe_signed_by: Any = None
    signed_by: Any = None
    certification: int = 5
    chain: bytes = b""
    padding: bytes = b""

    def header(self) -> bytes:
        """48 bytes."""
        tee_type = self.tee_type if self.tee_type is not None else {"sgx": 0, "tdx": 0x81}[self.tee]
        svns = (self.qe_svn, PCE_SVN) if self.version == 3 else (0, 0)
        head = (self.version, self.key_type)
        numbers = b"".join(value.to_bytes(2, "little") for value in head)
        return (
            numbers
            + tee_type.to_bytes(4, "little")
            + b"".join(value.to_bytes(2, "little") for value in svns)
            + self.vendor
            + bytes(20)
        )

    def but(self, **changes: Any) -> Quoting:
        """The same, with these changed."""
        return dataclasses.replace(self, **changes)


def packed(fields: Mapping[str, bytes], changes: Mapping[str, bytes]) -> bytes:
    """The fields in their order, some changed. Raises `KeyError` for one that is not there, `ValueError` for a wrong size."""
    for name, value in changes.items():
        if len(fields[name]) != len(value):
            raise ValueError(f"{name} has {len(fields[name])} bytes")
    return b"".join({**fields, **changes}.values())


def qe_identity(tee: str, says: Says) -> dict[str, Any]:
    """QE identity version 2 (PCS API version 4)."""
    return {
        "id": "QE" if tee == "sgx" else "TD_QE",
        "version": 2,
        "issueDate": _text(says.qe_issued),
        "nextUpdate": _text(says.qe_until),
        "tcbEvaluationDataNumber": says.qe_number,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": (says.qe_signer or QE_SIGNERS[tee]).hex().upper(),
        "isvprodid": says.qe_product or (1 if tee == "sgx" else 2),
        "tcbLevels": [
            {"tcb": {"isvsvn": svn}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status}
            for status, svn in says.qe_levels
        ],
    }


def _components(svns: bytes) -> list[dict[str, int]]:
    return [{"svn": svn} for svn in svns]


def _date(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _text(seconds: int) -> str:
    return _date(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")
