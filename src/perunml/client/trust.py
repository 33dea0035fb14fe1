"""Trust in a manager: ask for evidence over its keys, judge it by the parties' profile, and pin what it vouches for.

Nothing is sent but a nonce, and nothing that the manager says is believed before its evidence is judged: the connection
is made without any trust, then its TLS key is compared with the one that the evidence covers (a relay in between
has another).
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from perunml.api.codes import CHANNEL_MISMATCH
from perunml.api.pin import Pin, spki_digest
from perunml.api.trust import Attestation
from perunml.client.codes import WRONG_MANAGER
from perunml.client.connection import TIMEOUT, exchange
from perunml.client.home import Home, manager_name
from perunml.client.profile import ManagerProfile
from perunml.evidence.binding import binding
from perunml.evidence.bundle import Bundle, SimulatedPart
from perunml.evidence.judge import judge
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.simulated.verify import machine_id
from perunml.evidence.types import Appraisal
from perunml.wire.codes import MALFORMED
from perunml.wire.encoding import b64
from perunml.wire.errors import error, refuse
from perunml.wire.timestamps import format_time

NONCE_SIZE = 32
PATH = "/.well-known/perunml/attestation"
MAX_ATTESTATION = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shown:
    """What a manager showed: its statement, and the digest of the key that its TLS connection really used."""

    attestation: Attestation
    peer: str


Fetch = Callable[[str, bytes], Shown]


def trust(
    url: str,
    profile: ManagerProfile,
    *,
    fetch: Fetch | None = None,
    now: float | None = None,
    nonce: bytes | None = None,
) -> Pin:
    """The pin of the manager at `url` (https://host:port), after its fresh evidence was found good enough.

    Raises `EvidenceRefusal`: another TLS key than the attested one (channel_mismatch), another identity than the
    profile's (wrong_manager), or whatever is wrong with the evidence.
    """
    url = _origin(url)
    nonce = os.urandom(NONCE_SIZE) if nonce is None else nonce
    shown = (fetch or fetch_attestation)(url, nonce)
    said = shown.attestation
    if not shown.peer == said.tls == spki_digest(said.certificate):
        raise refuse(
            CHANNEL_MISMATCH,
            "the TLS connection's key is not the one that the manager attests",
            expected=said.tls,
            seen=shown.peer,
        )
    if profile.key and profile.key != said.identity:
        raise refuse(WRONG_MANAGER, "another manager than the profile names", expected=profile.key, seen=said.identity)
    when = int(time.time() if now is None else now)
    appraisal = _appraise(said, nonce, profile.policies, when)
    return Pin(
        url=url,
        identity=said.identity,
        intake=said.intake,
        tls=said.tls,
        certificate=said.certificate,
        host_ca=said.host_ca,
        profile=appraisal.profile,
        simulated=appraisal.profile == "simulated",
        machine=appraisal.machine,
        pinned=format_time(when),
    )


def trust_and_pin(home: Home, url: str, profile: ManagerProfile) -> Pin:
    """`trust`, and keep the pin. An address whose manager was pinned under another identity is refused: a changed
    manager is a new decision, and the old pin is moved away by hand."""
    pin = trust(url, profile)
    before = home.pins().get(manager_name(pin.url))
    if before is not None and before.identity != pin.identity:
        raise refuse(
            WRONG_MANAGER,
            "another manager was pinned at this address before",
            expected=before.identity,
            seen=pin.identity,
        )
    home.create()
    home.save_pin(pin)
    return pin


def _appraise(said: Attestation, nonce: bytes, policies: tuple[Policy, ...], now: int) -> Appraisal:
    """The appraisal under the first policy that the evidence satisfies. Raises `EvidenceRefusal` with the reasons of
    the last policy tried."""
    bundle = Bundle.from_json(said.evidence)
    expected = binding(
        purpose="manager",
        nonce=nonce,
        role="manager",
        session_hpke=said.intake,
        session_tls=said.tls,
        manager=said.identity,
        agreement="",
        run="",
        host=said.machine,
        payload=said.host_ca,
    )
    machine = _machine(said.machine, bundle)
    appraisals = [
        judge(bundle, machine=machine, policy=policy, binding=expected, now=now).appraisal for policy in policies
    ]
    for appraisal in appraisals:
        if not appraisal.reasons and appraisal.binding == expected:
            return appraisal
    raise error(appraisals[-1].reasons)


def _machine(name: str, bundle: Bundle) -> Machine:
    """The machine as it names itself: nobody enrolled a manager's machine with its clients. A bare key is worth what
    `simulated` is worth; it must at least be the key that the machine is named after."""
    for part in bundle.parts:
        if isinstance(part, SimulatedPart):
            own = machine_id(part.key)
            if name != own:
                raise refuse(WRONG_MANAGER, "the machine is not named after its key", expected=own, seen=name)
            return Machine(name, simulated=True, key=part.key)
    return Machine(name, simulated=False)


def fetch_attestation(url: str, nonce: bytes) -> Shown:
    """Ask over a connection that trusts nobody, and keep the key that the other end really has."""
    import httpx

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # judged by the evidence below, and pinned after it; nothing secret is sent
    peers: list[bytes | None] = []

    class SeenSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            peers.append(self.getpeercert(binary_form=True))

    context.sslsocket_class = SeenSocket
    with httpx.Client(verify=context, timeout=TIMEOUT, trust_env=False, follow_redirects=False) as client:
        data = exchange(client, "GET", f"{url}{PATH}?nonce={b64(nonce)}", b"", {}, MAX_ATTESTATION)
    said = Attestation.decode(data, limit=MAX_ATTESTATION)
    if len(peers) != 1 or not peers[0]:
        raise refuse(CHANNEL_MISMATCH, "the connection's key is not known", expected="one TLS handshake")
    return Shown(said, spki_digest(peers[0]))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise refuse(MALFORMED, "not a manager's address", expected="https://host:port", seen=url)
    return f"https://{parts.netloc}"
