"""Verifies an Intel quote on dcap-qvl: chain to Intel's root, revocation, QE identity, TCB level, signature. Around it stands what a
verifier must not leave to a library: which collateral, its dates by our clock, never older than before, and a second reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import dcap_qvl

from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.dcap.codes import (
    PARSERS_DISAGREE,
    QE_IDENTITY,
    QUOTE_UNSUPPORTED,
    SEPT_VE,
    SERVICE_TD,
    TCB_LEVEL_MISSING,
)
from perunml.evidence.dcap.collateral import DcapCollateral, issuer_of, items
from perunml.evidence.dcap.parse import RawQuote, SgxBody, TdxBody, parse_quote
from perunml.evidence.dcap.roots import is_intel
from perunml.evidence.endorsements import Endorsements, Seen
from perunml.evidence.tee.codes import (
    CERTIFICATE_CHAIN,
    CERTIFICATE_EXPIRED,
    CERTIFICATE_REVOKED,
    COLLATERAL_EXPIRED,
    COLLATERAL_INVALID,
    COLLATERAL_MISSING,
    COLLATERAL_ROLLBACK,
    DEBUG_ENABLED,
    REPORT_SIGNATURE,
    TCB_STATUS,
    WRONG_TEE,
)
from perunml.evidence.types import Verified, mint_verified
from perunml.wire.digests import digest
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.rules import Reason, Rule
from perunml.wire.timestamps import format_time

_FAILURES: tuple[tuple[str, Rule], ...] = (
    # What dcap-qvl 0.7 says, in the order in which its words are looked for, and what it means to us.
    ("CertNotValidForName", CERTIFICATE_CHAIN),
    ("CertExpired", CERTIFICATE_EXPIRED),
    ("CertNotValidYet", CERTIFICATE_EXPIRED),
    ("CertRevoked", CERTIFICATE_REVOKED),
    ("CrlExpired", COLLATERAL_EXPIRED),
    ("CRL", COLLATERAL_INVALID),
    ("in quote_collateral", COLLATERAL_INVALID),
    ("TCBInfo", COLLATERAL_EXPIRED),
    ("QE Identity expired", COLLATERAL_EXPIRED),
    ("QE Identity issue date", COLLATERAL_EXPIRED),
    ("Collateral expired", COLLATERAL_EXPIRED),
    ("certificate chain", CERTIFICATE_CHAIN),
    ("Certificate chain", CERTIFICATE_CHAIN),
    ("Debug mode", DEBUG_ENABLED),
    ("SEPT_VE_DISABLE", SEPT_VE),
    ("service TD", SERVICE_TD),
    ("TDX module identity", TCB_LEVEL_MISSING),
    ("No matching TCB level", TCB_LEVEL_MISSING),
    ("TCB status is invalid", TCB_STATUS),
    ("Fmspc mismatch", COLLATERAL_MISSING),
    ("TCB info in the collateral", COLLATERAL_MISSING),
    ("QE vendor", QUOTE_UNSUPPORTED),
    ("version", QUOTE_UNSUPPORTED),
    ("attestation key type", QUOTE_UNSUPPORTED),
    ("qe_report", QE_IDENTITY),
    ("QE ", QE_IDENTITY),
    ("report signature is invalid", REPORT_SIGNATURE),
    ("decode", NON_CANONICAL),
)
CLOCK_SKEW = 0
"""Seconds that collateral may be from the future."""


@dataclass(frozen=True, slots=True)
class DcapQuote:
    """A verified quote.

    platform    ``platform:sha256:…`` over PPID and platform instance id of the signed PCK certificate
    collateral  what it was judged by, to be remembered: name -> number and time of issue
    collected   the oldest date of issue among what has one (seconds since 1970)
    expires     the first of the collateral's ends (seconds since 1970)
    simulated   it leads to a development root
    """

    tee: str
    version: int
    body: SgxBody | TdxBody
    status: str
    advisories: frozenset[str]
    platform: str
    fmspc: str
    number: int
    qe_svn: int
    collateral: Mapping[str, Seen]
    collected: int
    expires: int
    simulated: bool

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the TEE reported."""
        return self.body.report_data


def verify_dcap(
    quote: bytes, tee: Literal["sgx", "tdx"], endorsements: Endorsements, *, now: int
) -> Verified[DcapQuote]:
    """An Intel quote of the TEE that its sender says it is, at `now` (seconds since 1970).

    Raises `EvidenceRefusal`: non_canonical, quote_unsupported, wrong_tee; collateral_missing, collateral_expired,
    collateral_rollback, collateral_invalid; certificate_chain, certificate_expired, certificate_revoked; qe_identity,
    tcb_level_missing, tcb_status, debug_enabled, sept_ve_disable, service_td, report_signature, parsers_disagree.
    """
    raw = parse_quote(quote)
    if raw.tee != tee:
        raise refuse(WRONG_TEE, "the quote is of another TEE than was said", expected=tee, seen=raw.tee)
    found = _choose(raw, endorsements)
    reasons = [*_dates(found, now), *_rollback(found, endorsements.seen)]
    claims: dict[str, Any] = {}
    simulated = not is_intel(found.root)
    try:
        claims = _claims(raw, found, endorsements, simulated, now)
    except PerunError as exc:
        reasons.extend(exc.reasons)
    if not reasons:
        reasons.extend(_compare(raw, claims))
    if reasons:
        raise error(_once(reasons))
    pck = claims["platform"]["pck"]
    instance = bytes(pck["platform_instance_id"] or b"")
    return mint_verified(
        DcapQuote(
            tee=raw.tee,
            version=raw.version,
            body=raw.body,
            status=str(claims["tcb"]["status"]),
            advisories=frozenset(map(str, claims["tcb"]["advisory_ids"])),
            platform="platform:" + digest(bytes(pck["ppid"]) + instance),
            fmspc=found.fmspc,
            number=found.number,
            qe_svn=int(claims["qe"]["report"]["isv_svn"]),
            collateral=_names(found),
            collected=min(part.issued for part in found.parts),
            expires=min(part.until for part in found.parts),
            simulated=simulated,
        )
    )


def _choose(raw: RawQuote, endorsements: Endorsements) -> DcapCollateral:
    """The newest item that fits the quote's platform."""
    fmspc = _fmspc(raw.quote)
    _, issuer = issuer_of(raw.pck_chain)
    fitting = [item for item in items(endorsements.collateral) if item.fits(raw.tee, fmspc, issuer)]
    if not fitting:
        expected = f"{raw.tee} of FMSPC {fmspc}, {issuer}"
        raise refuse(COLLATERAL_MISSING, "no collateral is for this platform", expected=expected)
    return max(fitting, key=lambda item: (item.number, item.issued, item.qe_issued))


def _fmspc(quote: bytes) -> str:
    try:
        return str(dcap_qvl.parse_quote(quote).fmspc()).upper()
    except ValueError:
        raise refuse(CERTIFICATE_CHAIN, "the PCK certificate does not tell its platform's kind (FMSPC)") from None


def _dates(found: DcapCollateral, now: int) -> Iterator[Reason]:
    for part in found.parts:
        if now > part.until or part.issued > now + CLOCK_SKEW:
            yield Reason(
                COLLATERAL_EXPIRED,
                f"the {part.what} is not in force",
                expected=f"{format_time(part.issued)} to {format_time(part.until)}",
                seen=format_time(now),
            )


def _names(found: DcapCollateral) -> dict[str, Seen]:
    return {
        f"{found.tee}:{found.fmspc}": Seen(found.number, found.issued),
        f"qe:{found.tee}": Seen(found.qe_number, found.qe_issued),
    }


def _rollback(found: DcapCollateral, seen: Mapping[str, Seen]) -> Iterator[Reason]:
    """Neither a lower number than before nor, with the same one, an earlier issue (T5)."""
    for name, own in _names(found).items():
        before = seen.get(name)
        if before is not None and (own.number, own.issued) < (before.number, before.issued):
            yield Reason(
                COLLATERAL_ROLLBACK,
                f"older collateral than was used before: {name}",
                expected=f"number {before.number} of {format_time(before.issued)} or newer",
                seen=f"number {own.number} of {format_time(own.issued)}",
            )


def _claims(
    raw: RawQuote, found: DcapCollateral, endorsements: Endorsements, simulated: bool, now: int
) -> dict[str, Any]:
    """What dcap-qvl says after it verified everything: under Intel's root, or under the development root that the chain ends
    at, where that one was given by name."""
    if simulated and found.root not in endorsements.simulated_roots:
        raise refuse(CERTIFICATE_CHAIN, "the collateral does not lead to Intel's root", seen=digest(found.root))
    try:
        made = _verifier(found.root if simulated else None).verify_with_policy(
            raw.quote, found.library, now, dcap_qvl.QuotePolicy.claims_only(now)
        )
        claims: dict[str, Any] = json.loads(made.to_json())
    except ValueError as exc:
        said = " ".join(str(exc).split())
        rule = next((rule for words, rule in _FAILURES if words in said), REPORT_SIGNATURE)
        raise refuse(rule, "the quote does not verify", seen=said[:300]) from None
    return claims


@lru_cache(maxsize=16)
def _verifier(root: bytes | None) -> Any:
    return dcap_qvl.QuoteVerifier(root)


def _compare(raw: RawQuote, claims: dict[str, Any]) -> Iterator[Reason]:
    """What we rely on, as both readers see it."""
    said = claims["report"]
    kind, fields = next(iter(said.items()))
    theirs = fields.get("base", fields) if kind != "SgxEnclave" else fields
    pairs: dict[str, tuple[object, object]] = {
        "version": (raw.version, claims["header"]["version"]),
        "TEE": ({"sgx": 0, "tdx": 0x81}[raw.tee], claims["tee_type"]),
        "report data": (raw.body.report_data.hex(), theirs["report_data"]),
    }
    if isinstance(raw.body, SgxBody):
        pairs |= {
            "kind": ("SgxEnclave", kind),
            "attributes": (raw.body.attributes.hex(), theirs["attributes"]),
            "MRENCLAVE": (raw.body.mr_enclave.hex(), theirs["mr_enclave"]),
            "MRSIGNER": (raw.body.mr_signer.hex(), theirs["mr_signer"]),
            "product id": (raw.body.product_id, theirs["isv_prod_id"]),
            "ISV SVN": (raw.body.isv_svn, theirs["isv_svn"]),
            "CPU SVN": (raw.body.cpu_svn.hex(), theirs["cpu_svn"]),
        }
    else:
        pairs |= {
            "TEE TCB SVN": (raw.body.tee_tcb_svn.hex(), theirs["tee_tcb_svn"]),
            "TD attributes": (raw.body.td_attributes.hex(), theirs["td_attributes"]),
            "XFAM": (raw.body.xfam.hex(), theirs["xfam"]),
            "MRTD": (raw.body.mr_td.hex(), theirs["mr_td"]),
            "MRSEAM": (raw.body.mr_seam.hex(), theirs["mr_seam"]),
            "MRCONFIGID": (raw.body.mr_config_id.hex(), theirs["mr_config_id"]),
            "MROWNER": (raw.body.mr_owner.hex(), theirs["mr_owner"]),
            "MROWNERCONFIG": (raw.body.mr_owner_config.hex(), theirs["mr_owner_config"]),
            **{f"RTMR{i}": (rtmr.hex(), theirs[f"rt_mr{i}"]) for i, rtmr in enumerate(raw.body.rtmrs)},
        }
    for name, (ours, seen) in pairs.items():
        if ours != seen:
            yield Reason(PARSERS_DISAGREE, f"two readers differ about {name}", expected=str(ours), seen=str(seen))


def _once(reasons: list[Reason]) -> list[Reason]:
    """One reason a code and message: what we found ourselves stands before what the library says of the same."""
    found: dict[str, Reason] = {}
    for reason in reasons:
        if reason.message != "the quote does not verify" or reason.code not in {each.code for each in found.values()}:
            found.setdefault(f"{reason.code} {reason.message}", reason)
    return list(found.values())
