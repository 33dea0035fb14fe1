"""The pin and its TLS context: who is accepted, and what never touches a disk."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from perunml.api.pin import Pin, pinned_context, spki_digest
from perunml.wire.digests import digest
from perunml.wire.errors import EvidenceRefusal, UsageError
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey

Issued = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def issue(name: str, issuer: Issued | None = None, *, ca: bool = False) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[1].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
    )
    return key, builder.sign(issuer[0] if issuer else key, hashes.SHA256())


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def pin_of(certificate: x509.Certificate, **changes: object) -> Pin:
    fields: dict[str, object] = {
        "url": "https://127.0.0.1:1",
        "identity": SigningKey.generate().public.text,
        "intake": HpkePrivateKey.generate().public.text,
        "tls": spki_digest(pem(certificate)),
        "certificate": pem(certificate),
        "host_ca": digest(b"ca"),
        "profile": "simulated",
        "simulated": True,
        "machine": "simulated:" + digest(b"m"),
        "pinned": "2027-01-01T00:00:00Z",
        **changes,
    }
    return Pin.model_validate(fields)


@contextmanager
def server(
    chain: list[x509.Certificate], key: ec.EllipticCurvePrivateKey, folder: Path, **options: object
) -> Iterator[tuple[int, list[object]]]:
    """One TLS server; what it saw of each client lands in the list."""
    file = folder / "server.pem"
    file.write_bytes("".join(pem(c) for c in chain).encode() + key_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, value in options.items():
        if name == "client_ca":
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(cadata=str(value))
        else:
            setattr(context, name, value)
    context.load_cert_chain(file)
    seen: list[object] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            while True:
                plain, _ = listener.accept()
                plain.settimeout(5)
                try:
                    with context.wrap_socket(plain, server_side=True) as conn:
                        seen.append(conn.getpeercert(binary_form=True))
                        conn.sendall(conn.recv(5))
                except OSError as exc:
                    seen.append(exc)
                    plain.close()
        except OSError:
            return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def talk(port: int, context: ssl.SSLContext) -> str:
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as conn:
        conn.sendall(b"hello")
        assert conn.recv(5) == b"hello"
        return conn.version() or ""


def test_accepts_the_pinned_manager(tmp_path: Path) -> None:
    """The attested self-signed certificate is enough, whatever name it has."""
    key, certificate = issue("a manager")
    with server([certificate], key, tmp_path) as (port, _):
        assert talk(port, pinned_context(pin_of(certificate))) == "TLSv1.3"


def test_refuses_another_certificate_with_the_same_name(tmp_path: Path) -> None:
    """C1: a man in the middle under his own key gets no byte."""
    _, certificate = issue("a manager")
    other_key, other = issue("a manager")
    with (
        server([other], other_key, tmp_path) as (port, _),
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        talk(port, pinned_context(pin_of(certificate)))


def test_refuses_a_certificate_that_the_pinned_one_issued(tmp_path: Path) -> None:
    """C3: the pinned key is the name; what it signed is somebody else (the key is compared in the handshake)."""
    authority = issue("a manager", ca=True)
    key, below = issue("below", authority)
    with server([below, authority[1]], key, tmp_path) as (port, _), pytest.raises(EvidenceRefusal) as caught:
        talk(port, pinned_context(pin_of(authority[1])))
    assert caught.value.code == "channel_mismatch"


def test_compares_the_key_for_asyncio_too(tmp_path: Path) -> None:
    """C3: the same check stands where the handshake runs over memory buffers."""
    import asyncio

    authority = issue("a manager", ca=True)
    key, below = issue("below", authority)

    async def attempt(port: int) -> None:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=pinned_context(pin_of(authority[1])), server_hostname=""
        )
        writer.close()

    with server([below, authority[1]], key, tmp_path) as (port, _), pytest.raises(EvidenceRefusal):
        asyncio.run(attempt(port))


def test_refuses_tls_1_2(tmp_path: Path) -> None:
    """C6: nothing older than TLS 1.3."""
    key, certificate = issue("a manager")
    old = {"maximum_version": ssl.TLSVersion.TLSv1_2}
    with server([certificate], key, tmp_path, **old) as (port, _), pytest.raises(ssl.SSLError):
        talk(port, pinned_context(pin_of(certificate)))


def test_shows_the_client_certificate_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host's key reaches OpenSSL without a file on a disk, and no descriptor stays open."""
    import os

    key, certificate = issue("a manager")
    authority = issue("host ca", ca=True)
    host_key, host = issue("host", authority)
    monkeypatch.chdir(tmp_path)
    before = (sorted(os.listdir("/proc/self/fd")), sorted(os.listdir(tmp_path)))
    context = pinned_context(pin_of(certificate), (pem(host), key_pem(host_key)))
    assert (sorted(os.listdir("/proc/self/fd")), sorted(os.listdir(tmp_path))) == before
    with server([certificate], key, tmp_path, client_ca=pem(authority[1])) as (port, seen):
        talk(port, context)
    assert seen == [host.public_bytes(Encoding.DER)]


def test_file_form_round_trips() -> None:
    """What is written is what is read."""
    _, certificate = issue("a manager")
    pin = pin_of(certificate)
    assert Pin.from_file(pin.to_file()) == pin


@pytest.mark.parametrize(
    "change",
    [
        {"tls": digest(b"another key")},
        {"url": "http://127.0.0.1:1"},
        {"url": "https://127.0.0.1:1/path"},
        {"identity": "ed25519:AA"},
        {"intake": "hpke:AA"},
        {"host_ca": "sha256:00"},
        {"simulated": False},
        {"pinned": "yesterday"},
        {"certificate": "-----BEGIN CERTIFICATE-----"},
        {"surprise": 1},
    ],
    ids=lambda change: "-".join(change),
)
def test_refuses_a_pin_that_contradicts_itself(change: dict[str, object]) -> None:
    """A pin file with a field that is wrong, missing or unknown is not read."""
    from perunml.wire.canonical import canonical, load_json

    _, certificate = issue("a manager")
    value = load_json(pin_of(certificate).to_file())
    with pytest.raises(UsageError):
        Pin.from_file(canonical({**value, **change}))
    value.pop("kind")
    with pytest.raises(UsageError):
        Pin.from_file(canonical(value))
