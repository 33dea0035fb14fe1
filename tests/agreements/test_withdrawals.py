"""Withdrawals and signatures made elsewhere, byte by byte."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from agreements.sample import document, key
from perunml.agreements.approvals import approval, standing
from perunml.agreements.document import agreement_from_json
from perunml.agreements.offline import raw_signature
from perunml.agreements.withdrawals import MAX_TAKEN_BACK, check_withdrawal, withdrawal
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey

FIRST = agreement_from_json(document())
NOW = FIRST.ends - 1000
SEAT = "st-vitus/dpo"


def given(end: int = FIRST.ends) -> Envelope:
    return signed("Approval", approval(FIRST, "st-vitus", end), key(SEAT))


def refused(body: dict[str, Any], by: SigningKey | None = None) -> str:
    with pytest.raises(PerunError) as caught:
        check_withdrawal(FIRST, signed("Withdrawal", body, by or key(SEAT)))
    return caught.value.code


def test_a_withdrawal_is_of_one_form() -> None:
    """Each member missing, more, of another type, for something else."""
    body = withdrawal(FIRST, "st-vitus", [given().digest])
    assert check_withdrawal(FIRST, signed("Withdrawal", body, key(SEAT))).approvals == {given().digest}
    for name in body:
        assert refused({other: value for other, value in body.items() if other != name}) == "malformed"
        assert refused({**body, name: 7}) in ("malformed", "approval_mismatch")
    assert refused({**body, "more": ""}) == "malformed"
    assert refused({**body, "approvals": []}) == "malformed"
    assert refused({**body, "approvals": [3]}) == "malformed"
    assert refused({**body, "approvals": [given().digest] * (MAX_TAKEN_BACK + 1)}) == "malformed"
    assert refused({**body, "approvals": ["sha256:" + "b" * 64, "sha256:" + "a" * 64]}) == "approval_mismatch"
    assert refused({**body, "party": "nobody"}) == "approval_mismatch"
    assert refused({**body, "agreement": given().digest}) == "approval_mismatch"
    assert refused({**body, "manager": key(SEAT).public.text}) == "approval_mismatch"
    assert refused(body, key("acme/ml")) == "bad_signature"


def test_whatever_the_order_it_counts_the_same() -> None:
    """Approvals and withdrawals are sets: of two approvals, either, both or none taken back."""
    approvals = [given(), given(FIRST.ends + 1)]
    for taken in itertools.chain.from_iterable(itertools.combinations(approvals, n) for n in range(3)):
        withdrawn = [
            signed("Withdrawal", withdrawal(FIRST, "st-vitus", [one.digest]), key(SEAT)) for one in reversed(taken)
        ]
        without = set(standing(FIRST, [], NOW).missing.items())
        for order in (approvals, approvals[::-1]):
            found = standing(FIRST, order, NOW, withdrawn=withdrawn)
            assert (set(found.missing.items()) == without) == (len(taken) == len(approvals))


def test_a_p384_signature_has_one_raw_form() -> None:
    """DER as other tools write it becomes r || s; anything else is refused."""
    public = SigningKey.generate("p384").public
    r, s = 1, 2**384 - 1
    assert raw_signature(public, encode_dss_signature(r, s)) == r.to_bytes(48) + s.to_bytes(48)
    der = encode_dss_signature(r, s)
    for wrong in (
        b"",
        der + b"\0",
        der[:-1],
        encode_dss_signature(2**384, 1),
        bytes.fromhex("30060201ff020101"),
        bytes(95),
    ):
        with pytest.raises(PerunError) as caught:
            raw_signature(public, wrong)
        assert caught.value.code == "signature_form"
    with pytest.raises(PerunError, match="signature_form"):
        raw_signature(SigningKey.generate().public, der)
