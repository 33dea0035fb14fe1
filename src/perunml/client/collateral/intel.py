"""Intel's collateral from the Provisioning Certification Service, API version 4, or a cache with its paths (a PCCS): TCB info, QE
identity, both revocation lists with their issuers' chains, in dcap-qvl's JSON form.

What Intel signed is the text of a member of its answers, so that text is kept as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from perunml.client.collateral.codes import COLLATERAL_LACKING
from perunml.client.collateral.web import PCS, PCS_ROOT_CRL, Answer, Web, strange
from perunml.evidence.dcap.collateral import DcapCollateral, read_collateral
from perunml.evidence.dcap.parse import parse_quote
from perunml.evidence.dcap.pck import read_pck_chain
from perunml.evidence.pem import split
from perunml.wire.canonical import load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse

AUTHORITIES = {"processor": "Intel SGX PCK Processor CA", "platform": "Intel SGX PCK Platform CA"}
"""Who issues PCK certificates, by the name that the service has for it."""
TEES = ("sgx", "tdx")
TCB_CHAIN, QE_CHAIN, CRL_CHAIN = (
    "tcb-info-issuer-chain",
    "sgx-enclave-identity-issuer-chain",
    "sgx-pck-crl-issuer-chain",
)
"""Headers that hold the issuers' certificates: PEM, percent-encoded."""
_FMSPC = re.compile(r"[0-9A-Fa-f]{12}")
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Platform:
    """A kind of platforms, of which one set of collateral tells: `fmspc` in hex, upper case; `ca` one of `AUTHORITIES`."""

    tee: str
    fmspc: str
    ca: str

    def is_of(self, item: DcapCollateral) -> bool:
        """Whether a set of collateral is this one's."""
        return (item.tee, item.fmspc) == (self.tee, self.fmspc) and AUTHORITIES[self.ca] in item.issuer

    def __str__(self) -> str:
        return f"{self.tee}:{self.fmspc}:{self.ca}"


def platform_of(quote: bytes) -> Platform:
    """The platform that a quote's PCK certificate names. Raises `EvidenceRefusal`: it is no quote; `UsageError`
    (collateral_lacking): another issuer than Intel's."""
    raw = parse_quote(quote)
    pck = read_pck_chain(raw.pck_chain)
    for ca, name in AUTHORITIES.items():
        if name in pck.issuer:
            return Platform(raw.tee, pck.fmspc, ca)
    expected = ", ".join(AUTHORITIES.values())
    raise refuse(
        COLLATERAL_LACKING, "another issuer of the quote's PCK certificate", expected=expected, seen=pck.issuer
    )


def read_platform(text: str) -> Platform:
    """``tdx:50806F000000:platform``. Raises `UsageError` (malformed)."""
    tee, _, rest = text.partition(":")
    fmspc, _, ca = rest.partition(":")
    if tee not in TEES or not _FMSPC.fullmatch(fmspc) or ca not in AUTHORITIES:
        expected = "TEE:FMSPC:CA, as tdx:50806F000000:platform"
        raise refuse(MALFORMED, "not a kind of platforms", expected=expected, seen=text)
    return Platform(tee, fmspc.upper(), ca)


def fetch_dcap(platform: Platform, web: Web) -> bytes:
    """One item. Raises `Unreachable` (vendor_answer)."""
    base = web.services.pcs.rstrip("/")
    # the service's own paths, documented at api.portal.trustedservices.intel.com
    tcb_url = f"{base}/{platform.tee}/certification/v4/tcb?fmspc={platform.fmspc}"
    qe_url = f"{base}/{platform.tee}/certification/v4/qe/identity"
    crl_url = f"{base}/sgx/certification/v4/pckcrl?ca={platform.ca}&encoding=der"
    # a cache has the root's list beside the rest; Intel has it elsewhere
    root_url = PCS_ROOT_CRL if base == PCS else f"{base}/sgx/certification/v4/rootcacrl"
    tcb, qe, crl = web.get(tcb_url), web.get(qe_url), web.get(crl_url)
    item = dcap_item(
        signed_member(tcb.body, "tcbInfo", tcb_url),
        signed_member(qe.body, "enclaveIdentity", qe_url),
        _list(crl.body, crl_url),
        _list(web.get(root_url).body, root_url),
        (_chain(tcb, TCB_CHAIN, tcb_url), _chain(qe, QE_CHAIN, qe_url), _chain(crl, CRL_CHAIN, crl_url)),
    )
    try:
        found = read_collateral(item)
    except PerunError as exc:
        raise strange(tcb_url, exc.reasons[0].message, f"collateral of {platform}") from None
    if not platform.is_of(found):
        raise strange(tcb_url, f"{found.tee} of {found.fmspc}, {found.issuer}", f"collateral of {platform}")
    return item


def dcap_item(
    tcb: tuple[str, str], qe: tuple[str, str], pck_crl: bytes, root_crl: bytes, chains: tuple[str, str, str]
) -> bytes:
    """dcap-qvl's JSON form of TCB info and QE identity (text and signature each), both lists (DER), and the chains (PEM) of the
    first three."""
    made: dict[str, Any] = {
        "pck_crl_issuer_chain": chains[2],
        "root_ca_crl": root_crl.hex(),
        "pck_crl": pck_crl.hex(),
        "tcb_info_issuer_chain": chains[0],
        "tcb_info": tcb[0],
        "tcb_info_signature": tcb[1],
        "qe_identity_issuer_chain": chains[1],
        "qe_identity": qe[0],
        "qe_identity_signature": qe[1],
    }
    return json.dumps(made, separators=(",", ":")).encode()


def signed_member(body: bytes, name: str, where: str) -> tuple[str, str]:
    """(the member's own text, its signature in hex) of an answer ``{name: {…}, "signature": "…"}``. Raises `Unreachable`
    (vendor_answer)."""
    try:
        found = member_texts(body)
        signature = str(load_json(found["signature"].encode()))
        if set(found) != {name, "signature"} or len(bytes.fromhex(signature)) != 64:
            raise ValueError
    except (PerunError, KeyError, ValueError):
        raise strange(where, "another answer", f"JSON with {name} and its signature") from None
    return found[name], signature


def member_texts(body: bytes) -> Mapping[str, str]:
    """The members of a JSON object, each with its value's text, character by character: what is signed is text, not a value.
    Raises `UsageError` (malformed), `ValueError`."""
    if not isinstance(load_json(body), dict):
        raise ValueError("not an object")
    text = body.decode()
    decoder, found = json.JSONDecoder(), {}
    at = _skip(text, _skip(text, 0) + 1)
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)  # over the colon
        _, end = decoder.raw_decode(text, start)
        found[name] = text[start:end]
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def _skip(text: str, at: int) -> int:
    matched = _SPACE.match(text, at)
    assert matched is not None
    return matched.end()


def _list(body: bytes, where: str) -> bytes:
    """A revocation list in DER; caches hand it out in hex."""
    if body.startswith(b"\x30"):
        return body
    try:
        return bytes.fromhex(body.decode("ascii").strip())
    except ValueError:
        raise strange(where, "another answer", "a revocation list, DER or hex") from None


def _chain(answer: Answer, header: str, where: str) -> str:
    """The certificates in a header, in PEM. Which of them signed what is dcap-qvl's business."""
    text = unquote(answer.headers.get(header, ""))
    try:
        if len(split(text.encode())) >= 2:
            return text
    except PerunError:
        pass
    raise strange(where, "none", f"certificates in the header {header}")
