"""Confidential inference: GET {endpoint}/.well-known/perunml/service, POST {endpoint}/v1/infer.

Bodies are sealed end to end, so the transport may be any proxy's. The plaintext of `InferenceCall.sealed` is canonical
JSON of a DSSE envelope of kind "InferenceRequest", signed by the client's identity key:
{manager, agreement, run, party, id (32 hex, never repeats), secret (base64url of 32 random bytes), time, inputs}.
It is HPKE-sealed to the service certificate's key under {label: "perunml/infer", manager, agreement, run}.
"""

from __future__ import annotations

from perunml.api.base import B64, Message, Signed


class ServiceView(Message):
    """`certificate` is DSSE kind "ServiceCertificate" by the manager: {manager, agreement, job, run, model (digest), engine,
    machine, profile, imitates, simulated, hpke, session_key, not_before, not_after}."""

    certificate: Signed


class InferenceCall(Message):
    sealed: B64


class InferenceAnswer(Message):
    """Chunks are AES-256-GCM under HKDF-SHA256(secret, salt=nonce, info=request digest): nonce = index, additional
    data = index and last flag (wire.answers). Joined they are canonical JSON {outputs, receipt}; receipt is DSSE kind
    "InferenceReceipt" by the session key: {manager, agreement, job, run, model, certificate (digest), request (digest),
    response (digest of outputs), party, id, time, simulated}."""

    nonce: B64
    chunks: list[B64]


class ReceiptFile(Message):
    """What a client keeps; `perunml receipt verify` needs nothing but this and the pinned manager."""

    certificate: Signed
    receipt: Signed
    request_digest: str
    response_digest: str
