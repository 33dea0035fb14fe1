"""Asks a manager that is not trusted yet, over a connection that trusts nobody, and keeps the key that answered."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from perunml.api.base import Message
from perunml.api.codes import CHANNEL_MISMATCH
from perunml.api.pin import spki_digest
from perunml.api.trust import Activated, Activation, Attestation
from perunml.client.connection import TIMEOUT, exchange
from perunml.wire.encoding import b64
from perunml.wire.errors import refuse

PATH = "/.well-known/perunml/attestation"
MAX_ATTESTATION = 40 * 1024 * 1024
"""Bytes: an IMA log of 24 MiB in base64, the boot log, and 4 MiB of collateral."""
MAX_ACTIVATED = 4096


@dataclass(frozen=True, slots=True)
class Shown:
    """What a manager showed: its statement, and the digest of the key that its TLS connection really used."""

    attestation: Attestation
    peer: str


Fetch = Callable[[str, bytes], Shown]
"""Asks the manager at a url for evidence over a nonce."""
Activate = Callable[[str, Activation], tuple[Activated, str]]
"""Sends an activation to the manager at a url: its answer, and the digest of the TLS key that answered."""


def fetch_attestation(url: str, nonce: bytes) -> Shown:
    """Ask over a connection that trusts nobody, and keep the key that the other end really has."""
    data, peer = _open_exchange("GET", f"{url}{PATH}?nonce={b64(nonce)}", None, MAX_ATTESTATION)
    return Shown(Attestation.decode(data, limit=MAX_ATTESTATION), peer)


def send_activation(url: str, body: Activation) -> tuple[Activated, str]:
    """The answer to a credential, and the key of whoever answered."""
    data, peer = _open_exchange("POST", f"{url}{PATH}/activate", body, MAX_ACTIVATED)
    return Activated.decode(data), peer


def _open_exchange(method: str, url: str, body: Message | None, limit: int) -> tuple[bytes, str]:
    import httpx

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # judged by the evidence, and pinned after it; nothing secret is sent
    peers: list[bytes | None] = []

    class SeenSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            peers.append(self.getpeercert(binary_form=True))

    context.sslsocket_class = SeenSocket
    headers = {"content-type": "application/json"} if body is not None else {}
    with httpx.Client(verify=context, timeout=TIMEOUT, trust_env=False, follow_redirects=False) as client:
        data = exchange(client, method, url, body.encode() if body is not None else b"", headers, limit)
    if len(peers) != 1 or not peers[0]:
        raise refuse(CHANNEL_MISMATCH, "the connection's key is not known", expected="one TLS handshake")
    return data, spki_digest(peers[0])
