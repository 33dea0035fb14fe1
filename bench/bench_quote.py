"""Verifying a quote beside the bare signature check of the same key, in interleaved rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from perunml.evidence.binding import tpm_extra_data
from perunml.evidence.tpm.algorithms import CRYPTOGRAPHY
from perunml.evidence.tpm.keys import check_ak, qualified_names
from perunml.evidence.tpm.public import parse_public
from perunml.evidence.tpm.quote import verify_quote
from perunml.evidence.tpm.signature import parse_signature
from perunml.testing.forge import ForgedTpm
from perunml.wire.errors import EvidenceRefusal

BINDING = b"\x5a" * 48
ROUNDS, CALLS = 60, 50
"""Rounds of calls: ours, then bare, then ours again; the medians over rounds are compared."""
TARGETS = {"p256": 1.5, "rsa": 2.2}
NAMES = {"p256": "ECDSA P-256", "p384": "ECDSA P-384", "rsa": "RSASSA-2048", "rsapss": "RSAPSS-2048"}


def bare_check(tpm: ForgedTpm, attest: bytes, signature: bytes) -> Callable[[], None]:
    """The library's own verification, everything but it prepared beforehand."""
    public = parse_public(tpm.ak_public)
    parsed, key = parse_signature(signature), public.key()
    algorithm = CRYPTOGRAPHY[parsed.hash]
    if isinstance(key, ec.EllipticCurvePublicKey):
        der = encode_dss_signature(*(int.from_bytes(part) for part in parsed.parts))
        scheme = ec.ECDSA(algorithm)
        return lambda: key.verify(der, attest, scheme)
    assert isinstance(key, rsa.RSAPublicKey)
    pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
    pad = pss if tpm._scheme == 0x16 else padding.PKCS1v15()
    return lambda: key.verify(parsed.parts[0], attest, pad, algorithm)


def round_of(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - begin) / CALLS


def compare(kind: str) -> tuple[float, float]:
    """Seconds of ours and of the bare check, medians over rounds."""
    tpm = ForgedTpm(ak=kind)
    part = tpm.quote(BINDING)
    ak, extra = check_ak(tpm.ak_public), tpm_extra_data(BINDING)
    signers = qualified_names(ak, None)

    def ours() -> None:
        verify_quote(part, ak, signers=signers, extra_data=extra)

    try:  # a check that cannot fail is none
        verify_quote(part, ak, signers=signers, extra_data=bytes(32))
        raise AssertionError("another exchange's quote was accepted")
    except EvidenceRefusal:
        pass
    bare = bare_check(tpm, part.attest, part.signature)
    ours_times, bare_times = [], []
    for number in range(ROUNDS + 5):
        first, second = round_of(ours), round_of(bare)
        if number >= 5:  # warmed up
            ours_times.append(first)
            bare_times.append(second)
    return statistics.median(ours_times), statistics.median(bare_times)


def run() -> dict[str, Any]:
    results = []
    for kind, name in NAMES.items():
        ours, bare = compare(kind)
        results.append(
            {"name": f"{name}: bare check", "value": round(bare * 1e6, 1), "unit": "µs", "higher_is_better": False}
        )
        results.append(
            {"name": f"{name}: quote verified", "value": round(ours * 1e6, 1), "unit": "µs", "higher_is_better": False}
        )
        ratio: dict[str, Any] = {
            "name": f"{name}: quote / bare",
            "value": round(ours / bare, 2),
            "unit": "x",
            "higher_is_better": False,
        }
        if kind in TARGETS:
            ratio["target"] = TARGETS[kind]
        results.append(ratio)
    return {
        "title": "A quote of 15 PCRs verified (parsed, signature, names, binding, selection, digest) beside the library's bare "
        "signature check of the same key, in interleaved rounds; the key was parsed at enrolment.",
        "results": results,
    }
