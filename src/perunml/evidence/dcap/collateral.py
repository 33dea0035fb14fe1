"""Intel's collateral as one verification needs it, read a second time beside dcap-qvl: for which platforms, of which number, from
when until when, whom it revokes. Signatures are dcap-qvl's business.

Intel PCS API version 4: TCB info version 3, QE identity version 2, X.509 revocation lists.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dcap_qvl
from cryptography import x509

from perunml.evidence.dcap.pck import UNREADABLE, Validity, load_chain, validity
from perunml.evidence.dcap.roots import is_intel
from perunml.evidence.endorsements import Collateral, Seen
from perunml.evidence.pem import split
from perunml.evidence.tee.codes import COLLATERAL_INVALID, REVOCATION_MISSING
from perunml.wire.canonical import load_json
from perunml.wire.errors import PerunError, refuse
from perunml.wire.rules import Reason

MAX_COLLATERAL = 512 * 1024
"""Bytes of one item; the largest published has some 20,000."""
KEPT = 256
"""Items that are kept read: a fleet has some tens of platforms' kinds."""
SETS = 4
"""Sets of items that are kept read, whole."""
_TEXTS = (
    "pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "tcb_info", "tcb_info_signature",
    "qe_identity_issuer_chain", "qe_identity", "qe_identity_signature",
)  # fmt: skip
_CHAINS = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
_LISTS = {"root_ca_crl": "root's revocation list", "pck_crl": "PCK revocation list"}
_QE_IDS = {"sgx": "QE", "tdx": "TD_QE"}
_TCB_IDS = {"sgx": "SGX", "tdx": "TDX"}


@dataclass(frozen=True, slots=True)
class Dated:
    """Something that holds from `issued` until `until` (seconds since 1970)."""

    what: str
    issued: int
    until: int


@dataclass(frozen=True, slots=True)
class Revocations:
    """A revocation list: its number, the serial numbers in it, when it was issued."""

    number: int
    serials: frozenset[int]
    issued: int


@dataclass(frozen=True, slots=True)
class DcapCollateral:
    """One item: for `tee` and platforms of `fmspc` (hex, upper case).

    number        tcbEvaluationDataNumber of the TCB info, `qe_number` of the QE identity
    parts         everything with a date of issue: TCB info, QE identity, both revocation lists
    certificates  of all issuer chains
    issuer        name of the PCK certificates' issuer, whom the revocation list is of
    by_root, by_issuer  the two revocation lists
    root          the last certificate (DER) of the TCB signing chain
    digest        of the whole item
    """

    tee: str
    fmspc: str
    number: int
    qe_number: int
    issued: int
    qe_issued: int
    parts: tuple[Dated, ...]
    certificates: tuple[Validity, ...]
    issuer: str
    by_root: Revocations
    by_issuer: Revocations
    root: bytes
    digest: bytes
    library: Any

    def fits(self, tee: str, fmspc: str, issuer: str) -> bool:
        """Whether it is for this TEE, platform and issuer of PCK certificates."""
        return (self.tee, self.fmspc, self.issuer) == (tee, fmspc, issuer)

    @property
    def until(self) -> int:
        """The first of all ends."""
        return min(*(part.until for part in self.parts), *(each.until for each in self.certificates))

    @property
    def collected(self) -> int:
        """When the oldest part was issued that its vendor issues anew each day; the root's revocation list is a year's."""
        return min(self.issued, self.qe_issued, self.by_issuer.issued)

    @property
    def names(self) -> dict[str, Seen]:
        """What is remembered of it (T5), by name. What leads to a development root has names of its own: whoever holds that root
        writes any number, and Intel's collateral is not to look old beside it."""
        issuer = hashlib.sha256(self.issuer.encode()).hexdigest()[:16]
        of = "" if is_intel(self.root) else f"@{hashlib.sha256(self.root).hexdigest()[:16]}"
        return {
            f"{self.tee}:{self.fmspc}{of}": Seen(self.number, self.issued),
            f"qe:{self.tee}{of}": Seen(self.qe_number, self.qe_issued),
            f"crl:intel{of}": Seen(self.by_root.number, self.by_root.issued),
            f"crl:intel:{issuer}{of}": Seen(self.by_issuer.number, self.by_issuer.issued),
        }


def items(collateral: Collateral) -> tuple[tuple[DcapCollateral, ...], tuple[Reason, ...]]:
    """Every item that reads, and why others do not (collateral_invalid, revocation_missing): one platform's item is not to shut
    out all others. A set is read once, however large it is."""
    return _items(collateral.dcap)


@lru_cache(maxsize=SETS)
def _items(listed: tuple[bytes, ...]) -> tuple[tuple[DcapCollateral, ...], tuple[Reason, ...]]:
    found: list[DcapCollateral] = []
    reasons: list[Reason] = []
    for data in listed:
        try:
            found.append(read_collateral(data))
        except PerunError as exc:
            reasons.extend(exc.reasons)
    return tuple(found), tuple(reasons)


@lru_cache(maxsize=KEPT)
def read_collateral(data: bytes) -> DcapCollateral:
    """One item in dcap-qvl's JSON form. Raises `EvidenceRefusal` (collateral_invalid; revocation_missing: a list is empty)."""
    try:
        value = load_json(data, limit=MAX_COLLATERAL)
        if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in _TEXTS):
            raise _bad("a member is missing or no text")
        for name, what in _LISTS.items():
            if not value[name]:
                raise refuse(REVOCATION_MISSING, f"the collateral lacks the {what}", expected=name)
        tcb, qe = (_inner(value[name]) for name in ("tcb_info", "qe_identity"))
        tee = next((kind for kind, name in _TCB_IDS.items() if tcb.get("id") == name), "")
        if not tee or qe.get("id") != _QE_IDS[tee]:
            raise _bad(f"TCB info and QE identity of no TEE, or of two: {tcb.get('id')!s}, {qe.get('id')!s}")
        lists = {name: x509.load_der_x509_crl(bytes.fromhex(value[name])) for name in _LISTS}
        parts = (
            Dated("TCB info", _time(tcb["issueDate"]), _time(tcb["nextUpdate"])),
            Dated("QE identity", _time(qe["issueDate"]), _time(qe["nextUpdate"])),
            *(_dated(_LISTS[name], crl) for name, crl in lists.items()),
        )
        chains = [load_chain(value[name].encode()) for name in _CHAINS]
        return DcapCollateral(
            tee=tee,
            fmspc=_hex(tcb["fmspc"], 6),
            number=_number(tcb["tcbEvaluationDataNumber"]),
            qe_number=_number(qe["tcbEvaluationDataNumber"]),
            issued=parts[0].issued,
            qe_issued=parts[1].issued,
            parts=parts,
            certificates=tuple(dict.fromkeys(validity(made) for chain in chains for made in chain)),
            issuer=lists["pck_crl"].issuer.rfc4514_string(),
            by_root=_revocations(lists["root_ca_crl"]),
            by_issuer=_revocations(lists["pck_crl"]),
            root=split(value["tcb_info_issuer_chain"].encode())[-1],
            digest=hashlib.sha256(data).digest(),
            # of an item nothing but what is read above: dcap-qvl would take a PCK chain in it for the quote's own
            library=dcap_qvl.QuoteCollateralV3.from_json(json.dumps({name: value[name] for name in _TEXTS})),
        )
    except PerunError as exc:
        if exc.reasons[0].rule in (COLLATERAL_INVALID, REVOCATION_MISSING):
            raise
        raise _bad(exc.reasons[0].message) from None
    except (*UNREADABLE, KeyError, TypeError, IndexError, OverflowError) as exc:
        raise _bad(type(exc).__name__) from None


def _inner(text: str) -> dict[str, Any]:
    value = load_json(text.encode(), limit=MAX_COLLATERAL)
    if not isinstance(value, dict):
        raise _bad("not an object")
    return value


def _dated(what: str, crl: x509.CertificateRevocationList) -> Dated:
    if crl.next_update_utc is None:
        raise _bad(f"the {what} has no end")
    return Dated(what, int(crl.last_update_utc.timestamp()), int(crl.next_update_utc.timestamp()))


def _revocations(crl: x509.CertificateRevocationList) -> Revocations:
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    serials = frozenset(entry.serial_number for entry in crl)
    return Revocations(number, serials, int(crl.last_update_utc.timestamp()))


def _time(text: str) -> int:
    return int(dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC).timestamp())


def _hex(text: str, size: int) -> str:
    if len(bytes.fromhex(text)) != size or len(text) != 2 * size:
        raise ValueError
    return text.upper()


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _bad(why: str) -> PerunError:
    return refuse(COLLATERAL_INVALID, f"the collateral is not of its form: {why}")


__all__ = ["Dated", "DcapCollateral", "Revocations", "items", "read_collateral"]
