"""Confidential inference: GET {endpoint}/.well-known/perunml/service, POST {endpoint}/v1/infer.

Bodies are sealed end to end, so the transport may be any proxy's. The plaintext of `InferenceCall.sealed` is canonical
JSON of a DSSE envelope of kind "InferenceRequest", signed by the client's identity key; the payloads are `api.service`'s.
It is HPKE-sealed to the service certificate's key under {label: "perunml/infer", manager, agreement, run}.
What a service refuses before it could open a request is a plain `RefusalBody`; after that even the refusal is sealed.
"""

from __future__ import annotations

from perunml.api.base import B64, Message, Signed


class ServiceView(Message):
    """`certificate` is DSSE kind "ServiceCertificate" by the manager (`api.service.ServiceCertificate`)."""

    certificate: Signed


class InferenceCall(Message):
    sealed: B64


class InferenceAnswer(Message):
    """Chunks are AES-256-GCM under HKDF-SHA256(secret, salt=nonce, info=request digest): nonce = index, additional
    data = index and last flag (wire.answers). Joined they are canonical JSON {outputs, receipt}, or {refusal}; receipt is
    DSSE kind "InferenceReceipt" by the session key (`api.service.InferenceReceipt`), refusal a `RefusalBody`."""

    nonce: B64
    chunks: list[B64]


class ReceiptFile(Message):
    """What a client keeps; `perunml receipt verify` needs nothing but this and the pinned manager."""

    certificate: Signed
    receipt: Signed
    request_digest: str
    response_digest: str
