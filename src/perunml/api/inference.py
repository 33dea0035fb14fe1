"""Confidential inference: GET {endpoint}/.well-known/perunml/service, POST {endpoint}/v1/sealed.

Bodies are sealed end to end, so the transport may be any proxy's. What is posted is an HPKE ciphertext under `api.service.sealed_info`; its plaintext is `api.service.frame_request`'s, a document signed by the
client's identity key and the body behind it. The answer is `wire.streams`'. What a service refuses before it could open a request is a plain `RefusalBody`; after that even the refusal is sealed.
"""

from __future__ import annotations

from perunml.api.base import B64, Message, Signed


class ServiceView(Message):
    """`certificate` is DSSE kind "ServiceCertificate" by the manager (`api.service.ServiceCertificate`)."""

    certificate: Signed


class ReceiptFile(Message):
    """What a client keeps; `perunml receipt verify` needs nothing but this and the pinned manager. `head` is the answer's first chunk (status and headers): with it and the body,
    `response_digest` can be computed anew."""

    certificate: Signed
    receipt: Signed
    request_digest: str
    response_digest: str
    head: B64
