"""Attacks by spelling: rules, bundles and collateral that are nearly of their form."""

from __future__ import annotations

from typing import Any

import pytest

from evidence.judging import BINDING
from evidence.nvidia_forged import ONE
from perunml.agreements.profiles import AllOf
from perunml.evidence import pem
from perunml.evidence.binding import shared_extra_data, tpm_extra_data
from perunml.evidence.bundle import MAX_PARTS, Bundle
from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.dcap.rules import SgxRules, TdxRules
from perunml.evidence.endorsements import MAX_ITEM, Collateral
from perunml.evidence.nvidia.rules import GpuRules
from perunml.evidence.parts import MAX_CERTIFICATE, MAX_CERTIFICATES
from perunml.evidence.snp.rules import SnpRules
from perunml.wire.encoding import b64
from perunml.wire.errors import PerunError, UsageError
from perunml.wire.timestamps import format_time

HEX = "11" * 48
NOBODY = "sha256:" + "0" * 64
SNP: dict[str, Any] = {"measurement": [HEX], "products": ["Milan"], "min_tcb": {"bootloader": 4}}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (TdxRules, {"mr_td": [HEX + "00"]}), (TdxRules, {"mr_td": [HEX + "\n"]}), (TdxRules, {"mr_td": [HEX.replace("1", "A")]}),
        (TdxRules, {"mr_td": [HEX], "td_attributes": []}), (TdxRules, {"mr_td": [HEX], "statuses": []}),
        (TdxRules, {"mr_td": [HEX], "rtmrs": {"00": [HEX]}}), (TdxRules, {"mr_td": [HEX], "rtmrs": {"4": [HEX]}}),
        (TdxRules, {"mr_td": [HEX], "rtmrs": {"0": []}}), (TdxRules, {"mr_td": [HEX], "open": [True]}),
        (TdxRules, {"mr_td": [HEX], "statuses": ["Revoked"]}), (SgxRules, {"mr_enclave": HEX}),
        (SgxRules, {"mr_signer": "11" * 32, "product_id": -1}), (SgxRules, {"mr_signer": "11" * 32, "min_svn": 65536}),
        (SnpRules, SNP | {"vlek": 1}), (SnpRules, SNP | {"smt": "true"}), (SnpRules, SNP | {"vlek": False}),
        (SnpRules, SNP | {"min_tcb": {}}), (SnpRules, SNP | {"min_tcb": {"bootloader": 256}}),
        (SnpRules, SNP | {"min_tcb": {"Bootloader": 4}}), (SnpRules, SNP | {"products": ["milan"]}),
        (GpuRules, ONE | {"excused": {f"driver:{number}.0": "2099-01-01T00:00:00Z" for number in range(1, 258)}}),
        (GpuRules, ONE | {"count": 0}), (GpuRules, ONE | {"count": True}), (GpuRules, ONE | {"vbios": ["96.00.9f.00.01"]}),
    ],
)  # fmt: skip
def test_rules_that_would_mean_more_than_they_say(kind: Any, data: dict[str, Any]) -> None:
    """Empty lists, other types, other cases, numbers out of range: each is an error, and none is read as anything."""
    with pytest.raises(UsageError):
        kind.from_json(data)


def test_an_excuse_ends_at_its_moment() -> None:
    """G4: until then, and not at it."""
    rules = GpuRules.from_json(ONE | {"excused": {"ocsp": format_time(1000)}})
    assert rules.excuses("ocsp", 999)
    assert not rules.excuses("ocsp", 1000)


GPU: dict[str, Any] = {"kind": "gpu", "device": "gpu", "report": "", "chain": []}


@pytest.mark.parametrize(
    "data",
    [
        {"version": 2, "parts": [GPU]}, {"version": True, "parts": [GPU]}, {"version": 1, "parts": []},
        {"version": 1, "parts": [GPU] * (MAX_PARTS + 1)}, {"version": 1, "parts": [GPU | {"device": "nic"}]},
        {"version": 1, "parts": [GPU | {"chain": [""] * (MAX_CERTIFICATES + 1)}]},
        {"version": 1, "parts": [GPU | {"chain": [b64(bytes(MAX_CERTIFICATE * 2))]}]},
        {"version": 1, "parts": [GPU | {"chain": {}}]}, {"version": 1, "parts": [GPU | {"more": 1}]},
        {"version": 1, "parts": [GPU | {"kind": ["gpu"]}]}, {"version": 1, "parts": {"0": GPU}},
    ],
)  # fmt: skip
def test_bundles_of_another_form(data: dict[str, Any]) -> None:
    """Another version, too many parts or none, too many certificates, a kind that is not known."""
    assert Bundle.from_json({"version": 1, "parts": [GPU]}).parts
    with pytest.raises(UsageError):
        Bundle.from_json(data)


def test_q_other_bindings_that_are_none() -> None:
    """A quote for several exchanges names each once, in order, and the own one not at all: else one quote has many meanings."""
    one, two = (bytes([number]) * 48 for number in (1, 2))
    assert shared_extra_data(BINDING, (one, two)) == tpm_extra_data(BINDING, one, two)
    for others in ((two, one), (one, one), (BINDING,), (one, BINDING), (b"",), (one[:-1],), (one + two,), (one,) * 64):
        assert shared_extra_data(BINDING, others) is None


@pytest.mark.parametrize(
    "change", [{"more": []}, {"dcap": {}}, {"ocsp": ["A" * (MAX_ITEM * 2)]}, {"made": 0}, {"crls": [1]}]
)
def test_collateral_of_another_form(change: dict[str, Any]) -> None:
    """A member more, of another type, or longer than any."""
    good = Collateral().as_json()
    assert Collateral.from_json(good) == Collateral()
    with pytest.raises(UsageError):
        Collateral.from_json(good | change)


@pytest.mark.parametrize(
    "body", ["AAAA", "AA!A\n-----END CERTIFICATE-----", "AAA\n-----END CERTIFICATE-----", "AAAA\n-----END X-----"]
)
def test_a_block_that_does_not_end(body: str) -> None:
    """Half a certificate is not passed over."""
    with pytest.raises(PerunError) as caught:
        pem.split(f"-----BEGIN CERTIFICATE-----\n{body}".encode())
    assert caught.value.code == NON_CANONICAL.code


MEASURED = {"profile": "measured", "baseline": NOBODY, "machines": [f"ek:{NOBODY}"]}
TEE = {"profile": "tee", "snp": SNP}


@pytest.mark.parametrize(
    "data",
    [
        {"all_of": [TEE, MEASURED], "binder": "machines"},
        {"all_of": [TEE, MEASURED], "binder": "machines", "machines": [f"ek:{NOBODY}"]},
        {"all_of": [TEE, TEE], "binder": "pcr"}, {"all_of": [MEASURED, MEASURED], "binder": "pcr"},
        {"all_of": [TEE, MEASURED, MEASURED], "binder": "pcr"}, {"all_of": [TEE], "binder": "pcr"},
        {"all_of": [TEE, MEASURED]}, {"all_of": [TEE, MEASURED], "binder": ""},
    ],
)  # fmt: skip
def test_t22_parts_that_nothing_binds(data: dict[str, Any]) -> None:
    """T22: two proofs are of one machine only where the profile says by what, and it is one TEE and one TPM."""
    assert AllOf.model_validate({"all_of": [TEE, MEASURED], "binder": "pcr"}).profile == "measured+tee"
    with pytest.raises(ValueError, match=r"."):
        AllOf.model_validate(data)
