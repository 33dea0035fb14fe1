"""Tells files apart that hold vendors' statements, for machines without a network: by what is in them, never by their names.

Known are answers of Intel's service (JSON) with issuers' chains and revocation lists beside them, dcap-qvl's JSON form, AMD's
certificates and lists, NVIDIA's manifests (XML, or as its service wraps them), OCSP responses. What is none of these is told.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import ocsp

from perunml.client.collateral.intel import dcap_item, signed_member
from perunml.evidence import pem
from perunml.evidence.dcap.collateral import read_collateral
from perunml.evidence.nvidia.rim import read_rim
from perunml.evidence.x509 import read_certificate, read_crl
from perunml.wire.canonical import load_json
from perunml.wire.errors import PerunError

AMD = ("ARK-", "SEV-")
INTEL = "Intel SGX "
"""How the common names of vendors' certificates begin."""
QE_IDS = {"SGX": "QE", "TDX": "TD_QE"}
UNKNOWN = "it is no statement of a vendor that is known here"
_HALF = 32
"""Bytes of r and of s."""
_DCAP = (
    "pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "tcb_info", "tcb_info_signature",
    "qe_identity_issuer_chain", "qe_identity", "qe_identity_signature",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """What Intel signed as JSON: its text, the signature in hex, and what it says."""

    text: str
    signature: str
    value: Mapping[str, Any]


@dataclass
class Pile:
    """What was found. `left_out` pairs the name of a file with why nothing of it, or not all, could be used."""

    dcap: list[bytes] = field(default_factory=list)
    certificates: list[bytes] = field(default_factory=list)
    crls: list[bytes] = field(default_factory=list)
    rims: list[bytes] = field(default_factory=list)
    ocsp: list[bytes] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    _tcbs: list[tuple[str, Told]] = field(default_factory=list)
    _qes: list[Told] = field(default_factory=list)
    _intel: list[x509.Certificate] = field(default_factory=list)
    _lists: list[x509.CertificateRevocationList] = field(default_factory=list)

    def put(self, name: str, data: bytes) -> None:
        """One file."""
        try:
            if not self._take(data):
                self.left_out.append((name, UNKNOWN))
            elif self._tcbs and self._tcbs[-1][0] == "":
                self._tcbs[-1] = (name, self._tcbs[-1][1])
        except PerunError as exc:
            if exc.code == "extra_missing":
                raise
            self.left_out.append((name, exc.reasons[0].message))
        except (ValueError, KeyError, TypeError, x509.DuplicateExtension):
            self.left_out.append((name, UNKNOWN))

    def close(self) -> None:
        """Make Intel's items out of their parts, when all files are in."""
        for name, tcb in self._tcbs:
            try:
                made = list(self._items(tcb))
            except (PerunError, ValueError, StopIteration, KeyError, TypeError) as exc:
                why = exc.reasons[0].message if isinstance(exc, PerunError) else str(exc)
                self.left_out.append((name, why))
                continue
            self.dcap += made

    def _take(self, data: bytes) -> bool:
        """Whether it was of any use."""
        if data.lstrip()[:1] == b"{":
            return self._json(data)
        if data.lstrip()[:1] == b"<":
            read_rim(data)
            self.rims.append(data)
            return True
        if b"-----BEGIN%20" in data:  # as it stands in a header
            data = unquote_to_bytes(data)
        if pem.is_pem(data):
            taken = [self._certificate(der) for der in pem.blocks(data, pem.CERTIFICATE)]
            taken += [self._list(der) for der in pem.blocks(data, pem.REVOCATIONS)]
            return any(taken)
        if not data.startswith(b"\x30"):
            data = bytes.fromhex(data.decode("ascii"))  # a cache's list; ValueError: nothing that is known
        return self._der(data)

    def _json(self, data: bytes) -> bool:
        value = load_json(data)
        if all(isinstance(value.get(name), str) for name in _DCAP):
            item = dcap_item(
                (value["tcb_info"], value["tcb_info_signature"]),
                (value["qe_identity"], value["qe_identity_signature"]),
                bytes.fromhex(value["pck_crl"]),
                bytes.fromhex(value["root_ca_crl"]),
                (value["tcb_info_issuer_chain"], value["qe_identity_issuer_chain"], value["pck_crl_issuer_chain"]),
            )
            read_collateral(item)
            self.dcap.append(item)
        elif isinstance(value.get("tcbInfo"), dict):
            self._tcbs.append(("", Told(*signed_member(data, "tcbInfo", "the file"), value["tcbInfo"])))
        elif isinstance(value.get("enclaveIdentity"), dict):
            self._qes.append(Told(*signed_member(data, "enclaveIdentity", "the file"), value["enclaveIdentity"]))
        elif isinstance(value.get("rim"), str):
            found = base64.b64decode(value["rim"], validate=True)
            read_rim(found)
            self.rims.append(found)
        else:
            return False
        return True

    def _der(self, der: bytes) -> bool:
        try:
            read_certificate(der)
        except PerunError:
            pass
        else:
            return self._certificate(der)
        try:
            x509.load_der_x509_crl(der)
        except ValueError:
            pass
        else:
            return self._list(der)
        answer = ocsp.load_der_ocsp_response(der)
        if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL or len(list(answer.responses)) != 1:
            return False
        self.ocsp.append(der)
        return True

    def _certificate(self, der: bytes) -> bool:
        found = read_certificate(der)
        names = [str(each.value) for each in found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        if names and names[0].startswith(INTEL):
            self._intel.append(found)
        elif names and names[0].startswith(AMD):
            self.certificates.append(der)
        else:
            return False  # devices send their own
        return True

    def _list(self, der: bytes) -> bool:
        found = x509.load_der_x509_crl(der)
        if f"CN={INTEL}" in found.issuer.rfc4514_string():
            self._lists.append(found)
        else:
            read_crl(der)
            self.crls.append(der)
        return True

    def _items(self, tcb: Told) -> Iterator[bytes]:
        """An item for each list of PCK certificates' issuers, with the newest QE identity. Raises `ValueError`: what is missing."""
        wanted = QE_IDS.get(str(tcb.value.get("id")), "")
        qes = [one for one in self._qes if one.value.get("id") == wanted]
        if not qes:
            raise ValueError(f"there is no QE identity {wanted or 'of its kind'} beside it")
        qe = max(qes, key=lambda one: (int(one.value["tcbEvaluationDataNumber"]), str(one.value["issueDate"])))
        signer, qe_signer = self._signer(tcb), self._signer(qe)
        root = self._issuer(signer)
        newest = {each.issuer: each for each in sorted(self._lists, key=lambda one: one.last_update_utc)}
        by_root = newest.pop(root.subject, None)
        if by_root is None or not newest:
            raise ValueError("there is no revocation list of Intel's root, or of a PCK CA, beside it")
        for issuer, crl in newest.items():
            authority = next((one for one in self._intel if one.subject == issuer), None)
            if authority is None:
                raise ValueError(f"there is no certificate of {issuer.rfc4514_string()} beside it")
            chains = (
                _pem(signer, root),
                _pem(qe_signer, self._issuer(qe_signer)),
                _pem(authority, self._issuer(authority)),
            )
            lists = [each.public_bytes(Encoding.DER) for each in (crl, by_root)]
            item = dcap_item((tcb.text, tcb.signature), (qe.text, qe.signature), lists[0], lists[1], chains)
            read_collateral(item)
            yield item

    def _signer(self, told: Told) -> x509.Certificate:
        raw = bytes.fromhex(told.signature)
        signature = encode_dss_signature(int.from_bytes(raw[:_HALF]), int.from_bytes(raw[_HALF:]))
        for one in self._intel:
            key = one.public_key()
            try:
                if isinstance(key, ec.EllipticCurvePublicKey):
                    key.verify(signature, told.text.encode(), ec.ECDSA(hashes.SHA256()))
                    return one
            except InvalidSignature:
                continue
        raise ValueError("there is no certificate beside it whose key signed it")

    def _issuer(self, certificate: x509.Certificate) -> x509.Certificate:
        for one in self._intel:
            try:
                certificate.verify_directly_issued_by(one)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return one
        raise ValueError(f"there is no issuer's certificate of {certificate.subject.rfc4514_string()} beside it")


def sort_files(files: Sequence[tuple[str, bytes]]) -> Pile:
    """(name, content) of each file. Raises `UsageError` (extra_missing) for manifests that cannot be read at all."""
    pile = Pile()
    with warnings.catch_warnings():
        # AMD numbers some certificates 0, which changes nothing here
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        for name, data in files:
            pile.put(name, data)
        pile.close()
    return pile


def _pem(*certificates: x509.Certificate) -> str:
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in certificates)
