"""Verifies a quote: signed by this key, for this exchange, over exactly these PCR values. Whether they are good ones is
for `appraise`."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perunml.evidence.bundle import BANK_SIZES, TpmPart
from perunml.evidence.codes import BINDING_MISMATCH, PCR_DIGEST, PCR_SELECTION, UNKNOWN_AK
from perunml.evidence.tpm.algorithms import DIGEST
from perunml.evidence.tpm.attest import Attest, Clock, parse_attest
from perunml.evidence.tpm.keys import AttestationKey
from perunml.evidence.tpm.signature import parse_signature, verify_signature
from perunml.evidence.types import Verified, mint_verified
from perunml.wire.errors import PerunError, error
from perunml.wire.rules import Reason


@dataclass(frozen=True, slots=True)
class Quote:
    """What a verified quote says: `pcrs` holds the signed values, all of them and no other."""

    pcrs: Mapping[str, Mapping[int, bytes]]
    clock: Clock
    firmware: int


def verify_quote(part: TpmPart, ak: AttestationKey, *, signers: Sequence[bytes], extra_data: bytes) -> Verified[Quote]:
    """The quote in `part`. `signers` are the qualified names it may bear, `extra_data` the 32 bytes it must sign.

    Raises `EvidenceRefusal` with every reason found: not_tpm_generated, wrong_attest_type, non_canonical, weak_scheme,
    quote_signature, unknown_ak, binding_mismatch, pcr_selection, pcr_digest.
    """
    attest = parse_attest(part.attest)
    reasons: list[Reason] = []
    if attest.qualified_signer not in signers:
        reasons.append(
            Reason(
                UNKNOWN_AK,
                "the quote names another key as its signer, or one that is not under the EK's hierarchy",
                expected=signers[0].hex(),
                seen=attest.qualified_signer.hex(),
            )
        )
    try:
        verify_signature(parse_signature(part.signature), ak.public, part.attest)
    except PerunError as exc:
        reasons.extend(exc.reasons)
    if not hmac.compare_digest(attest.extra_data, extra_data):
        reasons.append(
            Reason(
                BINDING_MISMATCH,
                "the quote was made for another exchange",
                expected=extra_data.hex(),
                seen=attest.extra_data.hex(),
            )
        )
    reasons.extend(_pcr_reasons(attest, part.pcrs, ak))
    if reasons:
        raise error(reasons)
    return mint_verified(Quote(part.pcrs, attest.clock, attest.firmware))


def _pcr_reasons(attest: Attest, pcrs: Mapping[str, Mapping[int, bytes]], ak: AttestationKey) -> list[Reason]:
    values: list[bytes] = []
    for bank, indices in attest.selection:
        told = pcrs.get(bank, {})
        if len(told) != len(indices) or not all(map(told.__contains__, indices)) or len(pcrs) != len(attest.selection):
            signed = {name: frozenset(chosen) for name, chosen in attest.selection}
            seen = _selected({name: frozenset(found) for name, found in pcrs.items()})
            return [Reason(PCR_SELECTION, "other PCRs than signed", expected=_selected(signed), seen=seen)]
        chosen_values = [told[index] for index in indices]
        if set(map(len, chosen_values)) != {BANK_SIZES[bank]}:
            return [Reason(PCR_SELECTION, "a PCR value is not of its bank's size")]
        values += chosen_values
    # part 1, 18.4: the digest is by the hash of the signing scheme
    scheme = ak.public.scheme
    found = DIGEST[scheme[1]](b"".join(values)).digest() if scheme else b""
    if not found or not hmac.compare_digest(found, attest.pcr_digest):
        return [Reason(PCR_DIGEST, "other PCR values than signed", expected=attest.pcr_digest.hex(), seen=found.hex())]
    return []


def _selected(selection: Mapping[str, frozenset[int]]) -> str:
    return "; ".join(f"{bank}:{','.join(map(str, sorted(found)))}" for bank, found in sorted(selection.items()))
