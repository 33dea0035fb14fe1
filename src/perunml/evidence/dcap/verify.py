"""Verifies an Intel quote on dcap-qvl: chain to Intel's root, revocation, QE identity, TCB level, signature. Around it stands what a
verifier must not leave to a library: which collateral, its dates by our clock, never older than before, and a second reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from perunml.evidence.dcap.codes import PARSERS_DISAGREE
from perunml.evidence.dcap.collateral import DcapCollateral, items
from perunml.evidence.dcap.library import library_claims
from perunml.evidence.dcap.parse import TEE_TYPES, RawQuote, SgxBody, TdxBody, parse_quote
from perunml.evidence.dcap.pck import PckChain, Validity, read_pck_chain
from perunml.evidence.dcap.roots import is_intel
from perunml.evidence.endorsements import Endorsements, Seen
from perunml.evidence.tee.codes import (
    CERTIFICATE_CHAIN,
    CERTIFICATE_EXPIRED,
    CERTIFICATE_REVOKED,
    COLLATERAL_EXPIRED,
    COLLATERAL_MISSING,
    COLLATERAL_ROLLBACK,
    DEBUG_ENABLED,
    WRONG_TEE,
)
from perunml.evidence.types import Verified, mint_verified
from perunml.wire.digests import digest
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.rules import Reason, Rule
from perunml.wire.timestamps import format_time

ONE_COLLECTION = 86_400
"""Seconds by which what several platforms share (QE identity, revocation lists) may be older in one item than in another: one
collection takes its time, and its vendor issues anew meanwhile."""
_EXPLAINS = frozenset({CERTIFICATE_CHAIN, CERTIFICATE_EXPIRED, CERTIFICATE_REVOKED, COLLATERAL_EXPIRED, DEBUG_ENABLED})
"""What dcap-qvl says in few words and we in more: its word is left out where ours is there."""


@dataclass(frozen=True, slots=True)
class DcapQuote:
    """A verified quote.

    platform    ``platform:sha256:…`` over PPID and platform instance id of the signed PCK certificate
    collateral  what it was judged by, to be remembered: name -> number and time of issue
    collected   the oldest date of issue among what Intel issues daily (seconds since 1970)
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
    collateral_rollback, collateral_invalid, revocation_missing; certificate_chain, certificate_expired, certificate_revoked;
    qe_identity, tcb_level_missing, tcb_status, debug_enabled, sept_ve_disable, service_td, configuration_mismatch,
    report_signature, quote_refused, parsers_disagree.
    """
    raw = parse_quote(quote)
    if raw.tee != tee:
        raise refuse(WRONG_TEE, "the quote is of another TEE than was said", expected=tee, seen=raw.tee)
    pck = read_pck_chain(raw.pck_chain)
    found = _choose(raw, pck, endorsements)
    reasons = [*_dates(found, now), *_certificates(pck, found, now), *_rollback(found, endorsements.seen)]
    if raw.body.debug:
        reasons.append(Reason(DEBUG_ENABLED, "the TEE runs in debug mode", expected="not in debug mode", seen="debug"))
    simulated = not is_intel(found.root)
    if simulated and found.root not in endorsements.simulated_roots:
        what = "the collateral does not lead to Intel's root"
        raise error([*reasons, Reason(CERTIFICATE_CHAIN, what, seen=digest(found.root))])
    try:
        claims, read = library_claims(raw, pck, found, found.root if simulated else None, now)
    except PerunError as exc:
        ours = {reason.rule for reason in reasons} & _EXPLAINS
        theirs = [r for r in exc.reasons if not (ours and r.rule in _EXPLAINS)]
        raise error([*reasons, *theirs]) from None
    reasons += _compare(raw, pck, claims, whole=read)
    if reasons:
        raise error(reasons)
    return mint_verified(
        DcapQuote(
            tee=raw.tee,
            version=raw.version,
            body=raw.body,
            status=str(claims["tcb"]["status"]),
            advisories=frozenset(map(str, claims["tcb"]["advisory_ids"])),
            platform="platform:" + digest(pck.ppid + pck.instance),
            fmspc=found.fmspc,
            number=found.number,
            qe_svn=int(claims["qe"]["report"]["isv_svn"]),
            collateral=found.names,
            collected=found.collected,
            expires=min(found.until, *(each.until for each in pck.certificates)),
            simulated=simulated,
        )
    )


def _choose(raw: RawQuote, pck: PckChain, endorsements: Endorsements) -> DcapCollateral:
    """The newest item that fits the quote's platform."""
    readable, unreadable = items(endorsements.collateral)
    fitting = [item for item in readable if item.fits(raw.tee, pck.fmspc, pck.issuer)]
    if not fitting:
        expected = f"{raw.tee} of FMSPC {pck.fmspc}, {pck.issuer}"
        missing = Reason(COLLATERAL_MISSING, "no collateral is for this platform", expected=expected)
        raise error([*unreadable, missing] if readable or not unreadable else unreadable)
    return max(fitting, key=lambda item: (item.number, item.issued, item.qe_issued))


def _dates(found: DcapCollateral, now: int) -> Iterator[Reason]:
    for part in found.parts:
        if not part.issued <= now <= part.until:
            yield _not_now(COLLATERAL_EXPIRED, f"the {part.what} is not in force", part.issued, part.until, now)


def _certificates(pck: PckChain, found: DcapCollateral, now: int) -> Iterator[Reason]:
    """Certificates out of their time, and revoked ones: the PCK's by its issuer, all others by the root."""
    for each in dict.fromkeys((*pck.certificates, *found.certificates)):
        if not each.since <= now <= each.until:
            yield _not_now(CERTIFICATE_EXPIRED, f"{each.name}: not valid now", each.since, each.until, now)
    leaf, *others = pck.certificates
    if leaf.serial in found.by_issuer.serials:
        yield _revoked(leaf)
    for each in dict.fromkeys((*others, *found.certificates)):
        if each.serial in found.by_root.serials:
            yield _revoked(each)


def _revoked(each: Validity) -> Reason:
    return Reason(CERTIFICATE_REVOKED, f"{each.name} is revoked by its issuer", seen=f"serial number {each.serial:x}")


def _not_now(rule: Rule, what: str, since: int, until: int, now: int) -> Reason:
    return Reason(rule, what, expected=f"{format_time(since)} to {format_time(until)}", seen=format_time(now))


def _rollback(found: DcapCollateral, seen: Mapping[str, Seen]) -> Iterator[Reason]:
    """Neither a lower number than before nor, with the same one, an earlier issue (T5)."""
    for name, own in found.names.items():
        before = seen.get(name)
        slack = 0 if name.startswith(found.tee) else ONE_COLLECTION
        if before is not None and (own.number, own.issued + slack) < (before.number, before.issued):
            yield Reason(
                COLLATERAL_ROLLBACK,
                f"older collateral than was used before: {name}",
                expected=f"number {before.number} of {format_time(before.issued)} or newer",
                seen=f"number {own.number} of {format_time(own.issued)}",
            )


def _compare(raw: RawQuote, pck: PckChain, claims: dict[str, Any], *, whole: bool) -> Iterator[Reason]:
    """What we rely on, as both readers see it; `whole`: the library read this very quote, RTMRs and report data as well."""
    kind, fields = next(iter(claims["report"].items()))
    told = claims["platform"]["pck"]
    pairs: dict[str, tuple[object, object]] = {
        "version": (raw.version, claims["header"]["version"]),
        "TEE": (raw.tee, TEE_TYPES.get(claims["tee_type"])),
        "FMSPC": (pck.fmspc, bytes(told["fmspc"]).hex().upper()),
        "PPID": (pck.ppid.hex(), bytes(told["ppid"]).hex()),
        "platform instance": (pck.instance.hex(), bytes(told["platform_instance_id"] or b"").hex()),
        "PCE SVN": (pck.pce_svn, told["pce_svn"]),
        "CPU SVN of the PCK": (pck.cpu_svn.hex(), bytes(told["cpu_svn"]).hex()),
        "SGX type": (pck.sgx_type, told["sgx_type"]),
    }
    if isinstance(raw.body, SgxBody):
        pairs |= {"kind": ("SgxEnclave", kind), **_enclave(raw.body, fields)}
    else:
        longer = bool(raw.body.mr_service_td)
        pairs |= {
            "kind": ("TD15" if longer else "TD10", kind),
            **_domain(raw.body, fields["base"] if longer else fields),
        }
        if longer:
            pairs |= {
                "TEE TCB SVN 2": (raw.body.tee_tcb_svn2.hex(), fields["tee_tcb_svn2"]),
                "MRSERVICETD": (raw.body.mr_service_td.hex(), fields["mr_service_td"]),
            }
    for name, (ours, seen) in pairs.items():
        if ours != seen and (whole or name not in _VARYING):
            yield Reason(PARSERS_DISAGREE, f"two readers differ about {name}", expected=str(ours), seen=str(seen))


_VARYING = frozenset({"report data", *(f"RTMR{index}" for index in range(4))})


def _enclave(body: SgxBody, theirs: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    return {
        "report data": (body.report_data.hex(), theirs["report_data"]),
        "attributes": (body.attributes.hex(), theirs["attributes"]),
        "MRENCLAVE": (body.mr_enclave.hex(), theirs["mr_enclave"]),
        "MRSIGNER": (body.mr_signer.hex(), theirs["mr_signer"]),
        "product id": (body.product_id, theirs["isv_prod_id"]),
        "ISV SVN": (body.isv_svn, theirs["isv_svn"]),
        "CPU SVN": (body.cpu_svn.hex(), theirs["cpu_svn"]),
    }


def _domain(body: TdxBody, theirs: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    return {
        "report data": (body.report_data.hex(), theirs["report_data"]),
        "TEE TCB SVN": (body.tee_tcb_svn.hex(), theirs["tee_tcb_svn"]),
        "TD attributes": (body.td_attributes.hex(), theirs["td_attributes"]),
        "XFAM": (body.xfam.hex(), theirs["xfam"]),
        "MRTD": (body.mr_td.hex(), theirs["mr_td"]),
        "MRSEAM": (body.mr_seam.hex(), theirs["mr_seam"]),
        "MRSIGNERSEAM": (body.mr_signer_seam.hex(), theirs["mr_signer_seam"]),
        "MRCONFIGID": (body.mr_config_id.hex(), theirs["mr_config_id"]),
        "MROWNER": (body.mr_owner.hex(), theirs["mr_owner"]),
        "MROWNERCONFIG": (body.mr_owner_config.hex(), theirs["mr_owner_config"]),
        **{f"RTMR{i}": (rtmr.hex(), theirs[f"rt_mr{i}"]) for i, rtmr in enumerate(body.rtmrs)},
    }
