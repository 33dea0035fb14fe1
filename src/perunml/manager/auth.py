"""Who calls: a party by its signature over the request (RFC 9421), a host by its client certificate.

What the handshake showed is looked at again on each request: a certificate's time, the enrolment behind it, the lease.
Whoever fails here hears one constant answer.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sqlalchemy import insert

from perunml.manager import limits
from perunml.manager.certificates import ClientCertificate, read_client
from perunml.manager.codes import LEASE_ENDED
from perunml.manager.context import Services
from perunml.manager.http import Access, Caller, Identify, Scope, unsigned
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.manager.writer import Transaction
from perunml.wire.codes import REQUEST_STALE
from perunml.wire.errors import PerunError, refuse
from perunml.wire.httpsig import verify_request

Read = Callable[[], Awaitable[bytes]]
EXTENSION = "perunml.peer"
_KEYID = re.compile(r';keyid="([a-z0-9]{1,16}:[A-Za-z0-9_-]{1,100})";')
_KNOWN = (
    "SELECT 1 FROM admitted WHERE key = :key UNION ALL SELECT 1 FROM agreement_keys k JOIN agreements a "
    "ON a.digest = k.agreement WHERE k.key = :key AND a.state = 'in_force' LIMIT 1"
)
_WITNESS = "SELECT 1 FROM witness_keys w JOIN agreements a ON a.digest = w.agreement WHERE w.key = :key AND a.state = 'in_force'"
_MACHINE = "SELECT tls_key FROM machines WHERE id = :machine"
_LEASE = "SELECT session_key, active, steady, wall, boot FROM leases WHERE lease = :lease"
_NONCE = Statement(insert(t.nonces).prefix_with("OR IGNORE"))


@dataclass(slots=True)
class Peer:
    """The client certificate of a connection, read when first needed."""

    der: bytes | None
    _read: ClientCertificate | None = field(default=None)

    def certificate(self) -> ClientCertificate:
        """Raises `AgreementRefusal` (request_unsigned): none, or not one of ours."""
        if self._read is None:
            if self.der is None:
                raise unsigned()
            try:
                self._read = read_client(self.der)
            except ValueError:
                raise unsigned() from None
        return self._read


def identify(services: Services, access: Access) -> Identify:
    """How a route of `access` learns who asks."""

    async def opened(scope: Scope, read: Read) -> Caller:
        address = (scope.get("client") or ("?",))[0]
        services.limits.take("open", address, limits.OPEN)
        return Caller(address=address)

    async def joiner(scope: Scope, read: Read) -> Caller:
        caller = await opened(scope, read)
        if not services.handovers.let_in(scope["path_params"]["handover"]):
            raise unsigned()  # a stranger's body is not read
        return caller

    async def party(scope: Scope, read: Read) -> Caller:
        return await _party(services, scope, read)

    async def witness(scope: Scope, read: Read) -> Caller:
        return await _party(services, scope, read, lambda c, key: is_known(c, key) or _is_witness(c, key))

    async def machine(scope: Scope, read: Read) -> Caller:
        return _machine(services, _certificate(services, scope))

    async def lease(scope: Scope, read: Read) -> Caller:
        return _lease(services, _certificate(services, scope))

    async def either(scope: Scope, read: Read) -> Caller:
        if any(name == b"signature-input" for name, _ in scope["headers"]):
            return await _party(services, scope, read)
        return _lease(services, _certificate(services, scope))

    return {
        Access.OPEN: opened,
        Access.PARTY: party,
        Access.MACHINE: machine,
        Access.LEASE: lease,
        Access.PARTY_OR_LEASE: either,
        Access.WITNESS: witness,
        Access.JOINER: joiner,
    }[access]


def is_known(connection: Connection, key: str) -> bool:
    """Whether a key was admitted, or stands in an agreement in force."""
    return connection.run(_KNOWN, {"key": key}).first() is not None


def _is_witness(connection: Connection, key: str) -> bool:
    return connection.run(_WITNESS, {"key": key}).first() is not None


async def _party(
    services: Services, scope: Scope, read: Read, known: Callable[[Connection, str], bool] = is_known
) -> Caller:
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        text = name.decode("latin-1")
        if text in headers and text in ("signature", "signature-input", "content-digest", "host"):
            raise unsigned()
        headers[text] = value.decode("latin-1")
    claimed = _KEYID.search(headers.get("signature-input", ""))
    if claimed is None:
        raise unsigned()
    # A stranger's body is not even read.
    with services.database.read() as connection:
        if not known(connection, claimed[1]):
            raise unsigned()
    services.limits.take("party", claimed[1], limits.PARTY)
    authority = headers.get("host", "").lower()
    if authority not in services.authorities:
        raise unsigned()
    body, now = await read(), services.clock.now()
    try:
        request = verify_request(
            scope["method"],
            authority,
            scope["raw_path"].decode("ascii"),
            scope["query_string"].decode("ascii"),
            headers,
            body,
            now,
        )
    except PerunError as exc:
        # The key's holder learns that its clock is wrong; whoever merely names the key learns nothing.
        raise exc if exc.code == REQUEST_STALE.code else unsigned() from None
    except ValueError:
        raise unsigned() from None

    def remember(transaction: Transaction) -> bool:
        row = _NONCE.run(transaction.connection, nonce=f"{request.key.text} {request.nonce}", expires=request.expires)
        return bool(row.rowcount)

    if not await services.writer.submit(remember):
        raise refuse(REQUEST_STALE, "the request was sent before")
    return Caller(key=request.key.text)


def _certificate(services: Services, scope: Scope) -> ClientCertificate:
    peer = scope.get("extensions", {}).get(EXTENSION)
    if not isinstance(peer, Peer):
        raise unsigned()
    certificate = peer.certificate()
    if not certificate.not_before <= services.clock.now() < certificate.not_after:
        raise unsigned()
    return certificate


def _machine(services: Services, certificate: ClientCertificate) -> Caller:
    if not certificate.machine:
        raise unsigned()
    row = services.database.peek(_MACHINE, {"machine": certificate.machine})
    if row is None or row[0] != certificate.key:  # a later enrolment has another key: the old certificate is void
        raise unsigned()
    services.limits.take("machine", certificate.machine, limits.HOST)
    return Caller(machine=certificate.machine)


def _lease(services: Services, certificate: ClientCertificate) -> Caller:
    if not certificate.lease:
        raise unsigned()
    row = services.database.peek(_LEASE, {"lease": certificate.lease})
    if row is None or row[0] != certificate.key:
        raise unsigned()
    services.limits.take("lease", certificate.lease, limits.HOST)
    return Caller(lease=certificate.lease)


def lease_over() -> PerunError:
    return refuse(LEASE_ENDED, "the lease has ended")
