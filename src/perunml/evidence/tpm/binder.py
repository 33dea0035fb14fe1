"""A key of a TPM that works only in the agreed state and only for the TEE beside it: one of the binders against a relayed TPM.

The key signs, is not restricted, never leaves its TPM, and its policy is PolicyPCR over the boot's PCRs and then
PolicyAuthValue: whoever uses it must know its secret, which the TEE made up and gave to the TPM through an encrypted, salted
session. The attestation key certified it when the machine was enrolled; each exchange's binding is signed by it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.codes import AK_ATTRIBUTES, PCR_SELECTION
from perunml.evidence.tee.codes import BINDER_MISMATCH
from perunml.evidence.tpm.keys import (
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    USER_WITH_AUTH,
    AttestationKey,
)
from perunml.evidence.tpm.public import PublicArea, parse_public
from perunml.evidence.tpm.reader import Reader
from perunml.evidence.tpm.signature import parse_signature, verify_signature
from perunml.wire.errors import refuse

LABEL = b"perunml/binder\0"
PCRS = range(8)
"""Firmware, its settings, boot loader and Secure Boot's keys: what does not change until the machine boots another system."""
BANK = "sha256"
_SELECTION = bytes.fromhex("00000001000b03ff0000")
"""TPML_PCR_SELECTION of `PCRS` in the SHA-256 bank."""
_POLICY_PCR, _POLICY_AUTH_VALUE = 0x17F, 0x16B
"""TPM_CC_PolicyPCR, TPM_CC_PolicyAuthValue (part 2, 6.5.2)."""
_MAGIC, _CERTIFY = 0xFF544347, 0x8017
"""TPM_GENERATED_VALUE, TPM_ST_ATTEST_CERTIFY (part 2, 6.2 and 6.9)."""
_CLOCK_AND_FIRMWARE = 17 + 8
"""Bytes of a TPMS_CLOCK_INFO and of the firmware's version."""
MAX_NAME = 66
"""Bytes of a name by SHA-512; of extra data as well."""
_MUST = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | SIGN
_MUST_NOT = RESTRICTED | DECRYPT | USER_WITH_AUTH


def binder_policy(values: Mapping[int, bytes]) -> bytes:
    """The authPolicy of a binder key whose PCRs 0 to 7 (SHA-256 bank) have these values (part 3, 23.7 and 23.17)."""
    pcrs = hashlib.sha256(b"".join(values[index] for index in PCRS)).digest()
    first = hashlib.sha256(bytes(32) + _POLICY_PCR.to_bytes(4) + _SELECTION + pcrs).digest()
    return hashlib.sha256(first + _POLICY_AUTH_VALUE.to_bytes(4)).digest()


def verify_binder_key(public: bytes, certify: bytes, signature: bytes, ak: AttestationKey) -> PublicArea:
    """The binder key (TPM2B_PUBLIC) that `ak` certified: `certify` is the TPMS_ATTEST of TPM2_Certify, `signature` its
    TPMT_SIGNATURE. Freshness is not asked for: a key that is fixed to a TPM stays in it.

    Raises `EvidenceRefusal`: non_canonical, weak_scheme, quote_signature, ak_attributes, binder_mismatch.
    """
    area = parse_public(public)
    if area.attributes & _MUST != _MUST or area.attributes & _MUST_NOT:
        raise refuse(
            AK_ATTRIBUTES,
            "not the attributes of a binder key",
            expected=f"{_MUST:08x} and nothing of {_MUST_NOT:08x}",
            seen=f"{area.attributes:08x}",
        )
    verify_signature(parse_signature(signature), ak.public, certify)
    reader = Reader(certify, "what TPM2_Certify signs")
    if (reader.u32(), reader.u16()) != (_MAGIC, _CERTIFY):
        raise refuse(BINDER_MISMATCH, "not what TPM2_Certify signs")
    reader.sized(MAX_NAME)  # qualified signer
    reader.sized(MAX_NAME)  # extra data
    reader.take(_CLOCK_AND_FIRMWARE)
    name = reader.sized(MAX_NAME)
    reader.sized(MAX_NAME)  # qualified name
    reader.end()
    if not hmac.compare_digest(name, area.name):
        raise refuse(BINDER_MISMATCH, "another key was certified", expected=area.name.hex(), seen=name.hex())
    return area


def verify_binder(public: bytes, signature: bytes, binding: bytes, pcrs: Mapping[str, Mapping[int, bytes]]) -> None:
    """The enrolled binder key signed this binding, and works in no other state than the quoted `pcrs` show.

    Raises `EvidenceRefusal`: binder_mismatch, non_canonical, weak_scheme, quote_signature, pcr_selection.
    """
    if not public:
        raise refuse(BINDER_MISMATCH, "the machine was enrolled without a binder key")
    if not signature:
        raise refuse(BINDER_MISMATCH, "the TPM key that only this machine's TEE can use did not sign")
    area = parse_public(public)
    quoted = pcrs.get(BANK, {})
    if any(len(quoted.get(index, b"")) != BANK_SIZES[BANK] for index in PCRS):
        raise refuse(PCR_SELECTION, "PCRs 0 to 7 of the SHA-256 bank are not quoted", expected="sha256:0 to 7")
    wanted = binder_policy(quoted)
    if not hmac.compare_digest(area.policy, wanted):
        raise refuse(
            BINDER_MISMATCH,
            "the binder key works in another state of the machine than the quoted one",
            expected=wanted.hex(),
            seen=area.policy.hex(),
        )
    verify_signature(parse_signature(signature), area, LABEL + binding)
