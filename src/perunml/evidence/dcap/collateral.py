"""Intel's collateral as one verification needs it, read a second time beside dcap-qvl: for which platforms, of which number, from
when until when. Signatures are dcap-qvl's business.

Intel PCS API version 4: TCB info version 3, QE identity version 2, X.509 revocation lists.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dcap_qvl
from cryptography import x509

from perunml.evidence.endorsements import Collateral
from perunml.evidence.pem import split
from perunml.evidence.tee.codes import COLLATERAL_INVALID
from perunml.wire.canonical import load_json
from perunml.wire.errors import PerunError, refuse

MAX_COLLATERAL = 512 * 1024
"""Bytes of one item; the largest published has some 20,000."""
KEPT = 256
"""Items that are kept read: a fleet has some tens of platforms' kinds."""
_TEXTS = (
    "pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "tcb_info", "tcb_info_signature",
    "qe_identity_issuer_chain", "qe_identity", "qe_identity_signature",
)  # fmt: skip
_QE_IDS = {"sgx": "QE", "tdx": "TD_QE"}
_TCB_IDS = {"sgx": "SGX", "tdx": "TDX"}


@dataclass(frozen=True, slots=True)
class Dated:
    """Something that holds from `issued` until `until` (seconds since 1970)."""

    what: str
    issued: int
    until: int


@dataclass(frozen=True, slots=True)
class DcapCollateral:
    """One item: for `tee` and platforms of `fmspc` (hex, upper case).

    number  tcbEvaluationDataNumber of the TCB info, `qe_number` of the QE identity
    parts   everything with a date: TCB info, QE identity, both revocation lists
    issuer  subject of the PCK's issuer that the revocation list is of
    root    the last certificate (DER) of the TCB signing chain
    """

    tee: str
    fmspc: str
    number: int
    qe_number: int
    issued: int
    qe_issued: int
    parts: tuple[Dated, ...]
    issuer: str
    root: bytes
    library: Any

    def fits(self, tee: str, fmspc: str, issuer: str) -> bool:
        """Whether it is for this TEE, platform and issuer of PCK certificates."""
        return (self.tee, self.fmspc, self.issuer) == (tee, fmspc, issuer)


def items(collateral: Collateral) -> tuple[DcapCollateral, ...]:
    """Every item. Raises `EvidenceRefusal` (collateral_invalid)."""
    return tuple(map(read_collateral, collateral.dcap))


@lru_cache(maxsize=KEPT)
def read_collateral(data: bytes) -> DcapCollateral:
    """One item in dcap-qvl's JSON form. Raises `EvidenceRefusal` (collateral_invalid)."""
    try:
        value = load_json(data, limit=MAX_COLLATERAL)
        if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in _TEXTS):
            raise _bad("a member is missing or no text")
        tcb, qe = (_inner(value[name]) for name in ("tcb_info", "qe_identity"))
        tee = next(kind for kind, name in _TCB_IDS.items() if tcb.get("id") == name)
        if qe.get("id") != _QE_IDS[tee]:
            raise _bad(f"a QE identity of another TEE: {qe.get('id')!s}")
        lists = [x509.load_der_x509_crl(bytes.fromhex(value[name])) for name in ("root_ca_crl", "pck_crl")]
        parts = (
            Dated("TCB info", _time(tcb["issueDate"]), _time(tcb["nextUpdate"])),
            Dated("QE identity", _time(qe["issueDate"]), _time(qe["nextUpdate"])),
            *(
                _list(name, crl)
                for name, crl in zip(("root's revocation list", "PCK revocation list"), lists, strict=True)
            ),
        )
        return DcapCollateral(
            tee=tee,
            fmspc=_hex(tcb["fmspc"], 6),
            number=_number(tcb["tcbEvaluationDataNumber"]),
            qe_number=_number(qe["tcbEvaluationDataNumber"]),
            issued=parts[0].issued,
            qe_issued=parts[1].issued,
            parts=parts,
            issuer=lists[1].issuer.rfc4514_string(),
            root=split(value["tcb_info_issuer_chain"].encode())[-1],
            library=dcap_qvl.QuoteCollateralV3.from_json(data.decode()),
        )
    except PerunError as exc:
        raise refuse(COLLATERAL_INVALID, f"the collateral is not of its form: {exc.reasons[0].message}") from None
    except (ValueError, KeyError, TypeError, StopIteration, IndexError, OverflowError) as exc:
        raise _bad(type(exc).__name__) from None


def issuer_of(pck_chain: bytes) -> tuple[bytes, str]:
    """(the PCK certificate (DER), its issuer's name) of a chain in PEM. Raises `EvidenceRefusal` (non_canonical, …)."""
    leaf = split(pck_chain)[0]
    return leaf, _issuer(leaf)


@lru_cache(maxsize=KEPT)
def _issuer(leaf: bytes) -> str:
    return x509.load_der_x509_certificate(leaf).issuer.rfc4514_string()


def _inner(text: str) -> dict[str, Any]:
    value = load_json(text.encode(), limit=MAX_COLLATERAL)
    if not isinstance(value, dict):
        raise _bad("not an object")
    return value


def _list(what: str, crl: x509.CertificateRevocationList) -> Dated:
    if crl.next_update_utc is None:
        raise _bad(f"the {what} has no end")
    return Dated(what, int(crl.last_update_utc.timestamp()), int(crl.next_update_utc.timestamp()))


def _time(text: str) -> int:
    return int(dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC).timestamp())


def _hex(text: str, size: int) -> str:
    if len(bytes.fromhex(text)) != size:
        raise ValueError
    return text.upper()


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _bad(why: str) -> PerunError:
    return refuse(COLLATERAL_INVALID, f"the collateral is not of its form: {why}")


__all__ = ["DcapCollateral", "Dated", "issuer_of", "items", "read_collateral"]
