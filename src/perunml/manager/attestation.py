"""How the manager shows itself, and that it is there: the two routes that anybody may call."""

from __future__ import annotations

from perunml import __version__
from perunml.api.runs import NONCE_SIZE
from perunml.api.trust import Attestation
from perunml.evidence.binding import binding
from perunml.manager.certificates import spki
from perunml.manager.context import Services
from perunml.manager.http import Access, Answer, Call
from perunml.manager.routing import Spec
from perunml.wire.codes import MALFORMED
from perunml.wire.encoding import unb64
from perunml.wire.errors import refuse

PROFILE = "simulated"
"""A root key under a passphrase proves nothing about the machine that holds it, and this says so."""


def routes(services: Services) -> list[Spec]:
    keys = services.keys
    tls = spki(keys.tls_key().public_key())

    async def attestation(call: Call) -> Attestation:
        if set(call.query) != {"nonce"}:
            raise refuse(MALFORMED, "the query has a nonce", expected="?nonce=<base64url of 32 bytes>")
        nonce = unb64(call.query["nonce"], size=NONCE_SIZE)
        bound = binding(
            purpose="manager",
            nonce=nonce,
            role="manager",
            session_hpke=keys.intake.public.text,
            session_tls=tls,
            manager=keys.identity.public.text,
            agreement="",
            run="",
            host=services.attester.machine,
            payload=services.issuer.spki,
        )
        return Attestation(
            identity=keys.identity.public.text,
            intake=keys.intake.public.text,
            tls=tls,
            certificate=services.certificate,
            host_ca=services.issuer.spki,
            machine=services.attester.machine,
            version=__version__,
            profile=PROFILE,
            evidence=services.attester.collect(bound).as_json(),
        )

    async def health(call: Call) -> Answer:
        return Answer(b'{"status":"ok"}')

    return [
        Spec("GET", "/.well-known/perunml/attestation", Access.OPEN, attestation),
        Spec("GET", "/healthz", Access.OPEN, health),
    ]
