"""Enrolment of hosts: which machine, whose, with which keys. It gives no right; agreements name machines.

A TPM is asked to open a credential made for its EK and its AK's name, so the AK that is recorded is the one that the TPM
of the certified EK holds: whoever swaps the AK between the two requests gets a credential for the other one. A machine
without a TPM signs a nonce and is `simulated`; a TEE answers with evidence bound to it. An answer, right or wrong, ends the enrolment.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from dataclasses import replace
from typing import Any

from sqlalchemy.dialects.sqlite import insert

from perunml.api.enrolment import (
    EnrolAnswer,
    EnrolChallenge,
    Enrolled,
    EnrolRequest,
    EnrolSimulated,
    EnrolTee,
    EnrolTpm,
)
from perunml.attesters.simulated import ENROL_LABEL
from perunml.evidence.binding import binding
from perunml.evidence.bundle import Bundle
from perunml.evidence.codes import AK_CERTIFICATE
from perunml.evidence.composite import identify
from perunml.evidence.simulated.verify import machine_id
from perunml.evidence.tpm.binder import verify_binder_key
from perunml.evidence.tpm.cloud import verify_ak_certificate
from perunml.evidence.tpm.credential import make_credential
from perunml.evidence.tpm.ek import verify_ek
from perunml.evidence.tpm.keys import check_ak
from perunml.manager import limits, machines
from perunml.manager.certificates import ed25519_key
from perunml.manager.codes import ENROLMENT_FAILED, IDENTITY_CONFLICT, TPM_CLEARED
from perunml.manager.context import Services
from perunml.manager.http import Access, Call
from perunml.manager.pending import ENROLMENT_TTL, Enrolment
from perunml.manager.routing import Spec
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Statement
from perunml.manager.writer import Transaction
from perunml.wire.canonical import canonical, load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import digest
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey
from perunml.wire.timestamps import format_time

CERTIFICATE_DAYS = 30
"""Of the client certificate: it serves challenge and release only, and enrolling again is one command."""
SECRET_SIZE = 32
MAX_ANSWER = 1024 * 1024
"""Bytes of a TEE's evidence."""
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_FIND = "SELECT operator, name, enrolments, ak, instance, void FROM machines WHERE id = :machine"
_NAMED = "SELECT id FROM machines WHERE operator = :operator AND name = :name"
_row = insert(t.machines)
_RECORD = Statement(
    _row.on_conflict_do_update(
        index_elements=["id"],
        set_={
            name: _row.excluded[name]
            for name in ("ek", "ak", "key", "tls_key", "enrolments", "simulated", "tpm", "instance", "void", "binder")
        },
    )
)
_FORGET = (
    "UPDATE machines SET clock = '', boot = '', log_size = 0, boot_line = '', boot_agreement = '' WHERE id = :machine"
)
_FORGET_LOGS = "DELETE FROM logs WHERE machine = :machine"


def routes(services: Services) -> list[Spec]:
    async def begin(call: Call) -> EnrolChallenge:
        request = EnrolRequest.decode(call.body).machine
        operator = call.caller.key
        services.limits.take("enrol", operator, limits.ENROL)
        services.enrolments.check_room(operator)
        if not _NAME.fullmatch(request.name):
            raise refuse(MALFORMED, "not a machine's name", expected="a-z, 0-9, dots and hyphens", seen=request.name)
        ed25519_key(request.tls_key)
        if isinstance(request, EnrolTpm):
            return _begin_tpm(services, operator, request)
        if isinstance(request, EnrolTee):
            return _begin_tee(services, operator, request)
        return _begin_simulated(services, operator, request)

    async def answer(call: Call) -> Enrolled:
        message = EnrolAnswer.decode(call.body)
        begun = services.enrolments.take(call.params["enrolment"], call.caller.key)
        now = services.clock.now()
        if begun.machine:
            _check_answer(begun, message.answer)
        else:
            begun = _identified(services, begun, message.answer, now)
        await services.writer.submit(lambda transaction: _record(services, transaction, begun, now))
        seconds = CERTIFICATE_DAYS * 86400
        return Enrolled(
            machine=begun.machine,
            simulated=begun.simulated,
            certificate=services.issuer.machine(begun.machine, begun.tls_key, now, seconds),
            expires=format_time(now + seconds),
        )

    return [
        Spec("POST", "/v1/enrolments", Access.PARTY, begin, takes=EnrolRequest),
        Spec("POST", "/v1/enrolments/{enrolment}/answer", Access.PARTY, answer, takes=EnrolAnswer),
    ]


def _begin_tpm(services: Services, operator: str, request: EnrolTpm) -> EnrolChallenge:
    now, trust = services.clock.now(), services.config.trust
    identity = verify_ek(
        request.ek_certificate,
        request.ek_chain,
        request.ek_public,
        trust=trust,
        now=now,
        revocations=request.revocations,
    )
    ak = check_ak(request.ak_public)
    if request.binder_public:
        verify_binder_key(request.binder_public, request.binder_certify, request.binder_signature, ak)
    instance, simulated = "", identity.simulated
    if request.ak_certificate:
        found = verify_ak_certificate(
            request.ak_certificate, request.ak_chain, ak.public, trust=trust, now=now, revocations=request.revocations
        )
        # a vendor's TPM does not make true what a simulated cloud says of it
        instance, simulated = found.name, simulated or found.simulated
    secret = secrets.token_bytes(SECRET_SIZE)
    begun = _begin(
        services,
        operator,
        request,
        identity.machine,
        simulated,
        secret=secret,
        tpm=canonical(identity.claims()).decode(),
        instance=instance,
    )
    credential, encrypted = make_credential(request.ek_public, ak.name, secret)
    return EnrolChallenge(
        enrolment=services.enrolments.begin(begun), credential=credential, encrypted_secret=encrypted, nonce=b""
    )


def _begin_tee(services: Services, operator: str, request: EnrolTee) -> EnrolChallenge:
    begun = _begin(services, operator, request, "", False, nonce=secrets.token_bytes(SECRET_SIZE))
    return EnrolChallenge(
        enrolment=services.enrolments.begin(begun), credential=b"", encrypted_secret=b"", nonce=begun.nonce
    )


def _identified(services: Services, begun: Enrolment, answer: bytes, now: int) -> Enrolment:
    """What a TEE's evidence tells of its machine. One whose hardware tells no identity is named after the key that it enrols
    with, and no agreement can pin it to hardware."""
    bound = binding(
        purpose="enrol",
        nonce=begun.nonce,
        role="host",
        session_hpke="",
        session_tls=begun.tls_key,
        manager=services.keys.identity.public.text,
        agreement="",
        run="",
        host="",
        payload="",
    )
    with services.database.read() as connection:
        endorsements = services.collateral.endorsements(connection)
    bundle = Bundle.from_json(load_json(answer, limit=MAX_ANSWER))
    found = identify(bundle, binding=bound, endorsements=endorsements, now=now)
    machine = found.identity or "tee:" + digest(begun.tls_key.encode())
    with services.database.read() as connection:
        row = connection.run(_FIND, {"machine": machine}).first()
    enrolments = row[2] if row else 0
    return replace(begun, machine=machine, simulated=found.simulated, enrolments=enrolments)


def _begin_simulated(services: Services, operator: str, request: EnrolSimulated) -> EnrolChallenge:
    machine = machine_id(PublicKey(request.key).text)
    begun = _begin(services, operator, request, machine, True, nonce=secrets.token_bytes(SECRET_SIZE))
    return EnrolChallenge(
        enrolment=services.enrolments.begin(begun), credential=b"", encrypted_secret=b"", nonce=begun.nonce
    )


def _begin(
    services: Services,
    operator: str,
    request: EnrolTpm | EnrolTee | EnrolSimulated,
    machine: str,
    simulated: bool,
    *,
    secret: bytes = b"",
    nonce: bytes = b"",
    tpm: str = "{}",
    instance: str = "",
) -> Enrolment:
    with services.database.read() as connection:
        row = connection.run(_FIND, {"machine": machine}).first() if machine else None
        named = connection.run(_NAMED, {"operator": operator, "name": request.name}).scalar() if machine else None
    _check_identity(row, named, operator, request.name, machine)
    ak, cleared = (request.ak_public, request.cleared) if isinstance(request, EnrolTpm) else (b"", False)
    if row is not None and not cleared:
        _check_same(row[3], ak, row[4], instance)
    return Enrolment(
        operator=operator,
        name=request.name,
        tls_key=request.tls_key,
        machine=machine,
        simulated=simulated,
        ek=request.ek_public if isinstance(request, EnrolTpm) else b"",
        ak=ak,
        key=request.key if isinstance(request, EnrolSimulated) else "",
        secret=secret,
        nonce=nonce,
        enrolments=row[2] if row else 0,
        until=services.clock.steady() + ENROLMENT_TTL,
        tpm=tpm,
        instance=instance,
        cleared=cleared,
        binder=request.binder_public if isinstance(request, EnrolTpm) else b"",
    )


def _check_identity(row: Any, named: Any, operator: str, name: str, machine: str) -> None:
    """One name for one EK, one EK for one name, one operator for both (K8, K14)."""
    if row is not None and (row[0] != operator or row[1] != name):
        raise refuse(IDENTITY_CONFLICT, "this machine is enrolled under another name or operator", seen=name)
    if named is not None and named != machine:
        raise refuse(IDENTITY_CONFLICT, "another machine is enrolled under this name", expected=named, seen=machine)


def _check_same(ak: bytes, told_ak: bytes, instance: str, told_instance: str) -> None:
    """The TPM and its instance are those that were enrolled (K17, K18). An EK's primary attestation key is always the same
    one again, so another one means that something was replaced."""
    if bytes(ak) != told_ak:
        raise refuse(
            TPM_CLEARED,
            "this machine is enrolled with another attestation key",
            command="perunml host enrol --cleared",
        )
    if instance != told_instance:
        raise refuse(
            AK_CERTIFICATE,
            "this machine is enrolled as another cloud instance, or as none",
            expected=instance or "none",
            seen=told_instance or "none",
        )


def _check_answer(begun: Enrolment, answer: bytes) -> None:
    """Raises `EvidenceRefusal` (enrolment_failed)."""
    if begun.secret:
        if hmac.compare_digest(begun.secret, answer):
            return
    else:
        try:
            PublicKey(begun.key).verify(answer, ENROL_LABEL + begun.nonce)
            return
        except PerunError:
            pass
    raise refuse(ENROLMENT_FAILED, "the machine does not hold the keys that it names", seen=begun.machine)


def _record(services: Services, transaction: Transaction, begun: Enrolment, now: int) -> None:
    connection = transaction.connection
    row = connection.run(_FIND, {"machine": begun.machine}).first()
    named = connection.run(_NAMED, {"operator": begun.operator, "name": begun.name}).scalar()
    _check_identity(row, named, begun.operator, begun.name, begun.machine)
    if (row[2] if row else 0) != begun.enrolments:
        raise refuse(IDENTITY_CONFLICT, "another enrolment of this machine was faster", seen=begun.machine)  # K9
    void = set(json.loads(row[5])) if row else set()
    if begun.cleared:
        void |= set(machines.naming(services.library, connection, begun.machine))
        for statement in (_FORGET, _FORGET_LOGS):
            connection.run(statement, {"machine": begun.machine})
    _RECORD.run(
        connection,
        id=begun.machine,
        simulated=int(begun.simulated),
        name=begun.name,
        operator=begun.operator,
        ek=begun.ek,
        ak=begun.ak,
        key=begun.key,
        tls_key=begun.tls_key,
        enrolments=begun.enrolments + 1,
        clock="",
        boot="",
        log_size=0,
        boot_line="",
        boot_agreement="",
        boot_shared=0,
        tpm=begun.tpm,
        instance=begun.instance,
        binder=begun.binder,
        void=canonical(sorted(void)).decode(),
    )
    body = {"name": begun.name, "operator": begun.operator, "simulated": begun.simulated, "tls_key": begun.tls_key}
    body |= {"tpm": json.loads(begun.tpm), "instance": begun.instance, "cleared": begun.cleared}
    transaction.journal.append("enrolment", now, "", begun.machine, body)
