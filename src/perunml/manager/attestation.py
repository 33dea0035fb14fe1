"""How the manager shows itself, and that it is there: the routes that anybody may call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from perunml import __version__
from perunml.api.runs import NONCE_SIZE
from perunml.api.trust import (
    MAX_COLLATERAL,
    Activated,
    Activation,
    Attestation,
    ManagerTpm,
    RootCustody,
    activation_answer,
    manager_binding,
)
from perunml.attesters.simulated import SimulatedAttester
from perunml.manager import limits
from perunml.manager.certificates import spki
from perunml.manager.context import Services
from perunml.manager.device import TEES
from perunml.manager.http import Access, Answer, Call, outside
from perunml.manager.routing import Spec
from perunml.wire.canonical import canonical
from perunml.wire.codes import MALFORMED
from perunml.wire.encoding import unb64
from perunml.wire.errors import PerunError, refuse

if TYPE_CHECKING:
    from perunml.attesters.tpm import TpmAttester

MAX_ACTIVATION = 16 * 1024
"""Bytes of a credential and its encrypted secret as JSON: RSA-4096 has some 700."""


def routes(services: Services) -> list[Spec]:
    keys = services.keys
    tls = spki(keys.tls_key().public_key())
    custody = RootCustody.model_validate(keys.kept.as_json())
    tpm = _tpm(services)

    async def attestation(call: Call) -> Attestation:
        if set(call.query) != {"nonce"}:
            raise refuse(MALFORMED, "the query has a nonce", expected="?nonce=<base64url of 32 bytes>")
        bound = manager_binding(
            nonce=unb64(call.query["nonce"], size=NONCE_SIZE),
            identity=keys.identity.public.text,
            intake=keys.intake.public.text,
            tls=tls,
            host_ca=services.issuer.spki,
            custody=custody,
            machine=services.attester.machine,
        )
        if isinstance(services.attester, SimulatedAttester):
            bundle = services.attester.collect(bound)
        else:
            services.limits.take("attest", call.caller.address, limits.ATTEST)
            bundle = await asyncio.to_thread(services.attester.collect, bound)
        return Attestation(
            identity=keys.identity.public.text,
            intake=keys.intake.public.text,
            tls=tls,
            certificate=services.certificate,
            host_ca=services.issuer.spki,
            custody=custody,
            machine=services.attester.machine,
            version=__version__,
            profile=services.config.device.profile,
            evidence=bundle.as_json(),
            tpm=ManagerTpm.model_validate(tpm.enrolment()) if tpm is not None else None,
            collateral=_collateral(services),
        )

    async def activate(call: Call) -> Activated:
        request = Activation.decode(call.body)
        if tpm is None:
            raise outside()
        services.limits.take("attest", call.caller.address, limits.ATTEST)
        secret = await asyncio.to_thread(_activate, tpm, request)
        return Activated(answer=activation_answer(secret, keys.identity.public.text))

    async def health(call: Call) -> Answer:
        return Answer(b'{"status":"ok"}')

    return [
        Spec("GET", "/.well-known/perunml/attestation", Access.OPEN, attestation, query=("nonce",)),
        Spec(
            "POST", "/.well-known/perunml/attestation/activate", Access.OPEN, activate, MAX_ACTIVATION, takes=Activation
        ),
        Spec("GET", "/healthz", Access.OPEN, health),
    ]


def _collateral(services: Services) -> dict[str, Any] | None:
    """What the manager has of vendors' statements, where its evidence is judged by such: a newcomer has none. Nothing, where that
    is unusable or too much."""
    if services.config.device.kind not in TEES:
        return None
    try:
        with services.database.read() as connection:
            found = services.collateral.endorsements(connection).collateral.as_json()
    except PerunError:
        return None
    return found if any(map(len, found.values())) and len(canonical(found)) <= MAX_COLLATERAL else None


def _tpm(services: Services) -> TpmAttester | None:
    if services.config.device.kind != "tpm":
        return None
    from perunml.attesters.tpm import TpmAttester

    assert isinstance(services.attester, TpmAttester)
    return services.attester


def _activate(tpm: TpmAttester, request: Activation) -> bytes:
    """Raises `UsageError` (malformed): a credential for other keys, or none at all."""
    from tpm2_pytss import TSS2_Exception

    try:
        return tpm.activate(request.credential, request.secret)
    except (PerunError, TSS2_Exception):
        raise refuse(MALFORMED, "the TPM does not open this credential", expected="one for its EK and its AK") from None
