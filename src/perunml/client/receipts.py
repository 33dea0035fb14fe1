"""Receipts of inference, verified offline: nothing is asked, nothing but the file and the pinned manager is believed."""

from __future__ import annotations

from typing import Any

from perunml.api.codes import RECEIPT_MISMATCH
from perunml.api.inference import ReceiptFile
from perunml.api.pin import Pin
from perunml.api.service import InferenceReceipt, ResponseHash, ServiceCertificate, check_receipt
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey


def verify_receipt(file: ReceiptFile, pin: Pin, *, answer: bytes | None = None) -> dict[str, Any]:
    """The receipt's body with the certificate's machine, profile, engine and what it imitates, and whether the manager
    itself is simulated: which model, under which agreement, on what machine, gave which answer to whom, and when.

    `answer`, a body as it came from the service, is compared with the receipt when given. That a certificate's time is over is no fault: the receipt is from
    within it. Raises `IntegrityError` (bad_signature, wrong_payload_type, receipt_mismatch) and `UsageError` (malformed).
    """
    certificate = ServiceCertificate.open(file.certificate, [PublicKey(pin.identity)])
    if certificate.manager != pin.identity:
        raise refuse(
            RECEIPT_MISMATCH,
            "the certificate names another manager than its signer",
            expected=pin.identity,
            seen=certificate.manager,
        )
    receipt = InferenceReceipt.open(file.receipt, [PublicKey(certificate.session_key)])
    check_receipt(certificate, file.certificate.digest, receipt)
    if (receipt.request, receipt.response) != (file.request_digest, file.response_digest):
        raise refuse(
            RECEIPT_MISMATCH,
            "the receipt is about another request or answer than the file says",
            expected=f"{receipt.request}, {receipt.response}",
            seen=f"{file.request_digest}, {file.response_digest}",
        )
    if answer is not None:
        seen = ResponseHash(file.head)
        seen.add(answer)
        if seen.text != receipt.response:
            raise refuse(
                RECEIPT_MISMATCH, "this is not the answer of the receipt", expected=receipt.response, seen=seen.text
            )
    told = certificate.model_dump(mode="json", include={"machine", "profile", "imitates", "engine"})
    return receipt.model_dump(mode="json") | told | {"manager_simulated": pin.simulated}
