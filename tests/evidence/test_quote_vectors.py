"""Quotes of physical and cloud TPMs: each verifies under its key, or is refused for a reason that is written here."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.bundle import TpmPart
from perunml.evidence.tpm.algorithms import ECC, ECDSA
from perunml.evidence.tpm.attest import parse_attest
from perunml.evidence.tpm.keys import AttestationKey, check_ak, qualified_names
from perunml.evidence.tpm.public import PublicArea
from perunml.evidence.tpm.quote import Quote, verify_quote
from perunml.evidence.tpm.signature import parse_signature
from perunml.wire.errors import EvidenceRefusal

pytestmark = needs_vectors

QUOTES = FOLDER / "tpm-quote"
PHYSICAL = QUOTES / "immune-gmbh__guard-oss"
BANKS = {"4": "sha1", "11": "sha256", "12": "sha384"}


def physical(name: str) -> tuple[TpmPart, AttestationKey, bytes]:
    """Evidence of a physical machine, its key as recovered from two of its signatures, and its signer's name."""
    document = json.loads((PHYSICAL / f"{name}.json").read_text())
    attest = base64.b64decode(document["quote"])
    told = document.get("allpcrs") or {document["algorithm"]: document["pcrs"]}
    values = {
        BANKS[a]: {int(i): base64.b64decode(v) for i, v in bank.items()} for a, bank in told.items() if a in BANKS
    }
    signed = dict(parse_attest(attest).selection)
    pcrs = {bank: {i: values[bank][i] for i in indices} for bank, indices in signed.items()}
    signer = parse_attest(attest).qualified_signer
    point = json.loads((PHYSICAL / "recovered_ak_pub.json").read_text())[signer.hex()]
    x, y = (int(point[axis], 16).to_bytes(32) for axis in "xy")
    area = PublicArea(b"", ECC, "sha256", 0, b"", None, (ECDSA, "sha256"), 0, 0, "p256", (x, y))
    assert isinstance(area.key(), ec.EllipticCurvePublicKey)
    part = TpmPart(attest, base64.b64decode(document["signature"]), pcrs)
    return part, AttestationKey(b"", area), signer


def verified(part: TpmPart, key: AttestationKey, signer: bytes, extra: bytes | None = None) -> Quote:
    extra = parse_attest(part.attest).extra_data if extra is None else extra
    return verify_quote(part, key, signers=[signer], extra_data=extra).value


@pytest.mark.parametrize("name", ["r340", "good-1", "failed-1"])
def test_q32_a_physical_machines_quote_verifies_under_its_recovered_key(name: str) -> None:
    """Q32: a discrete TPM's and firmware TPMs' ECDSA signatures, selections, PCR digests and counters."""
    part, key, signer = physical(name)
    found = verified(part, key, signer)
    assert found.clock.reset > 0
    assert found.pcrs["sha256"]


def test_q26_q27_physical_machines_quotes_do_not_verify_under_one_anothers_keys() -> None:
    """Q26, Q27: another machine's key, another machine's name."""
    part, key, signer = physical("r340")
    _, other_key, other_signer = physical("good-1")
    for wrong in ((part, other_key, signer), (part, key, other_signer)):
        with pytest.raises(EvidenceRefusal):
            verified(*wrong)
    with pytest.raises(EvidenceRefusal) as caught:
        verified(part, key, signer, b"\0" * 32)
    assert caught.value.code == "binding_mismatch"


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(EvidenceRefusal) as caught:
        call(*args)
    return caught.value.code


def test_q18_a_windows_machines_sha1_signature_is_refused() -> None:
    """Q18: its attestation key signs with RSASSA and SHA-1, and it quotes the SHA-1 bank."""
    document = json.loads((QUOTES / "google__go-attestation" / "windows_gcp_shielded_vm.json").read_text())
    area = base64.b64decode(document["AK"]["Public"])
    assert refusal(check_ak, len(area).to_bytes(2) + area) == "weak_scheme"
    attest = parse_attest(base64.b64decode(document["Quote"]["Quote"]))
    assert [bank for bank, _ in attest.selection] == ["sha1"]
    assert refusal(parse_signature, base64.b64decode(document["Quote"]["Signature"])) == "weak_scheme"


def test_q3_a_tpm_12s_quote_is_refused() -> None:
    """Q3: of another specification; it does not begin with TPM_GENERATED."""
    document = json.loads((QUOTES / "google__go-eventlog" / "linux_tpm12.json").read_text())
    assert refusal(parse_attest, base64.b64decode(document["Quote"]["Quote"])) == "not_tpm_generated"


def test_q18_an_agents_sha1_quote_is_refused() -> None:
    """Q18: RSASSA with SHA-1 over the SHA-1 bank."""
    attest, signature, _ = (QUOTES / "keylime__rust-keylime" / "test-quote.txt").read_text().strip().split(":")
    assert parse_attest(base64.b64decode(attest[1:])).selection == (("sha1", (16,)),)
    assert refusal(parse_signature, base64.b64decode(signature)) == "weak_scheme"


def fields(data: bytes) -> list[tuple[int, bytes | int]]:
    """The fields of a protocol buffer's message: numbers with bytes or an integer."""
    found: list[tuple[int, bytes | int]] = []
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            found.append((tag >> 3, number()))
        else:
            assert tag & 7 == 2
            size = number()
            found.append((tag >> 3, data[at : at + size]))
            at += size
    return found


@pytest.mark.parametrize(("name", "nonce"), [("gce-cos-85-no-nonce", b""), ("gce-cos-85-nonce9009", b"\x90\x09")])
def test_q32_a_cloud_machines_quotes_verify(name: str, nonce: bytes) -> None:
    """Q32: an attestation of a cloud's virtual TPM, a quote for each bank, its key in the same file; its name is its own."""
    message = fields((QUOTES / "google__go-tpm-tools" / f"{name}.pb").read_bytes())
    area = next(value for number, value in message if number == 1)
    assert isinstance(area, bytes)
    key = check_ak(len(area).to_bytes(2) + area)
    checked = []
    for number, quote in message:
        if number != 2:
            continue
        assert isinstance(quote, bytes)
        parts = dict(fields(quote))
        pcrs = fields(parts[3])  # type: ignore[arg-type]
        bank = BANKS[str(dict(pcrs)[1])]
        entries = [dict(fields(value)) for n, value in pcrs if n == 2]  # type: ignore[arg-type]
        values = {int(entry.get(1, 0)): entry[2] for entry in entries}
        part = TpmPart(parts[1], parts[2], {bank: values})  # type: ignore[arg-type,dict-item]
        found = verify_quote(part, key, signers=qualified_names(key, None), extra_data=nonce).value
        checked.append(bank)
        assert len(found.pcrs[bank]) == 24
    assert "sha256" in checked
