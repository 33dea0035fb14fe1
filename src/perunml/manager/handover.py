"""The root key goes to another machine: a new version of the manager, on evidence that every agreement in force admits (DESIGN section 6,
docs/decisions/0026).

What a manager must prove stands in each agreement, and everybody approved it. So the newest version in force of every agreement decides, as
the ledger proves it, never one that was superseded. A manager whose key a TPM or TEE keeps hands it on only where its counter says, now, that
its store is the newest, and enters nothing from then on: one of the two goes on. A stranger hears one constant answer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from perunml.api.base import MAX_MESSAGE
from perunml.api.handover import (
    HandoverAnswer,
    HandoverChallenge,
    HandoverGiven,
    HandoverRequest,
    handover_info,
)
from perunml.evidence.policy import Machine
from perunml.evidence.simulated.verify import machine_id
from perunml.evidence.tpm.credential import make_credential
from perunml.evidence.tpm.ek import verify_ek
from perunml.evidence.tpm.keys import check_ak
from perunml.manager import admission, counter, journal, limits, lines, verdicts
from perunml.manager.codes import HANDOVER_REFUSED
from perunml.manager.context import Services
from perunml.manager.http import Access, Call
from perunml.manager.lines import InForce
from perunml.manager.pending import HANDOVER_TTL, Handover
from perunml.manager.routing import Spec
from perunml.manager.store.connection import Connection
from perunml.manager.writer import Transaction
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import digest
from perunml.wire.errors import PerunError, refuse
from perunml.wire.hpke import HpkePublicKey
from perunml.wire.identity import PublicKey

SECRET_SIZE = 32
log = logging.getLogger("perunml.manager")


def routes(services: Services) -> list[Spec]:
    async def begin(call: Call) -> HandoverChallenge:
        request = HandoverRequest.decode(call.body)
        services.limits.take("handover", call.caller.address, limits.HANDOVER)
        services.handovers.check_room(call.caller.address)
        _check_open(services)
        return _begin(services, request, call.caller.address)

    async def answer(call: Call) -> HandoverGiven:
        begun = services.handovers.take(call.params["handover"])
        message = HandoverAnswer.decode(call.body)
        key = HpkePublicKey(message.hpke)
        if message.custody.origin:
            raise refuse(MALFORMED, "where the root key comes from is not for who asks for it to say")
        _check_open(services)
        if not _known_to_its_operator(services) and not await counter.prove(services):
            raise admission.closed("the counter does not count with this store")
        known = await asyncio.to_thread(lines.proven, services.config.database, services.keys)
        question = await verdicts.read(services, lambda connection: admission.ask(services, connection, known))
        found = await asyncio.to_thread(admission.judge_all, services, question, begun, message)
        made = await services.writer.submit(lambda tx: _record(services, tx, question, known, found, begun, message))
        if isinstance(made, PerunError):
            raise made
        for agreement in question.agreements:
            await services.witnessed.demand(agreement, size=made)
        if not _known_to_its_operator(services) and not await counter.retire(
            services, lambda connection: _check_unchanged(connection, made, begun)
        ):
            raise admission.closed("it was handed on meanwhile, or the counter does not count with this store")
        with services.database.read() as connection:
            if _known_to_its_operator(services):
                _check_unchanged(connection, made, begun)
            note = journal.state(connection).note
        digests = [agreement.digest for agreement in question.agreements]
        info = handover_info(services.keys.identity.public.text, begun.nonce, digests)
        log.warning("the root key was handed to %s", found[0].judged.appraisal.machine if found[0].judged else "?")
        return HandoverGiven(sealed=services.keys.hand_over(key, info), agreements=digests, checkpoint=note)

    return [
        Spec("POST", "/v1/handovers", Access.OPEN, begin, takes=HandoverRequest),
        Spec("POST", "/v1/handovers/{handover}/answer", Access.JOINER, answer, MAX_MESSAGE, takes=HandoverAnswer),
    ]


def _check_open(services: Services) -> None:
    """Raises `AgreementRefusal` (handover_closed), `IntegrityError` (rollback_detected)."""
    services.rollback.check()
    with services.database.read() as connection:
        record = counter.record_of(services, connection)
    if _known_to_its_operator(services):
        return
    if record is None:
        raise admission.closed("it has no counter")
    if record.handed:
        raise admission.closed("it handed its root key on before")


def _known_to_its_operator(services: Services) -> bool:
    """Whose key a passphrase opens has nothing to prove: its operator has the key anyway."""
    return services.keys.kept.kind == "passphrase"


def _begin(services: Services, request: HandoverRequest, address: str) -> HandoverChallenge:
    """Raises `EvidenceRefusal`: what `verify_ek` and `check_ak` refuse."""
    secret = credential = encrypted = b""
    machine = Machine("", simulated=False)
    if request.tpm is not None and not request.key:
        tpm = request.tpm
        found = verify_ek(
            tpm.ek_certificate, tpm.ek_chain, tpm.ek_public, trust=services.config.trust, now=services.clock.now()
        )
        ak, secret = check_ak(tpm.ak_public), secrets.token_bytes(SECRET_SIZE)
        machine = Machine(found.machine, found.simulated, ak=tpm.ak_public, ek=tpm.ek_public, tpm=found.claims())
        credential, encrypted = make_credential(tpm.ek_public, ak.name, secret)
    elif request.key and request.tpm is None:
        machine = Machine(machine_id(PublicKey(request.key).text), simulated=True, key=request.key)
    elif request.key:
        raise refuse(MALFORMED, "a machine has a TPM, or a bare key", expected="one of tpm and key")
    nonce = secrets.token_bytes(SECRET_SIZE)
    item = Handover(address, nonce, machine, secret, services.clock.steady() + HANDOVER_TTL)
    return HandoverChallenge(
        handover=services.handovers.begin(item),
        nonce=nonce,
        expires_in=int(HANDOVER_TTL),
        credential=credential,
        encrypted_secret=encrypted,
    )


def _record(
    services: Services,
    transaction: Transaction,
    question: admission.Question,
    known: InForce,
    found: list[admission.Verdict],
    begun: Handover,
    message: HandoverAnswer,
) -> int | PerunError:
    """An entry for every agreement; how many entries the ledger then has. Or the refusal, of which each agreement that does not admit the machine
    is told, as long as strangers do not ask too often."""
    now, name = transaction.journal.at(services.clock.now()), digest(begun.nonce)
    if lines.changed(transaction.connection, known):
        return _refused(begun, ["another agreement came into force meanwhile"])
    short = [(agreement, one) for agreement, one in zip(question.agreements, found, strict=True) if one.reasons]
    if short or question.uncovered:
        why = [f"{agreement.name}: {reason.code}" for agreement, one in short for reason in one.reasons]
        why += [f"{owner} has data here and no agreement in force" for owner in question.uncovered]
        try:
            services.limits.take("handover-told", "", limits.HANDOVER_TOLD)
        except PerunError:
            return _refused(begun, why)
        for agreement, one in short:
            body = {
                "purpose": "handover",
                "machine": begun.machine.id,
                "reasons": [reason.as_json() for reason in one.reasons],
            }
            transaction.journal.append("refusal", now, agreement.digest, name, body)
        return _refused(begun, why)
    last = 0
    for agreement, one in zip(question.agreements, found, strict=True):
        assert one.judged is not None
        appraisal = one.judged.appraisal
        services.collateral.remember(transaction.connection, one.judged.seen)
        verdict = {
            "profile": appraisal.profile,
            "imitates": appraisal.imitates,
            "simulated": appraisal.profile == "simulated",
            "judged_by": appraisal.baseline,
            "identities": list(appraisal.identities),
            "claims": dict(appraisal.claims),
        }
        told = {"handover": name, "machine": appraisal.machine, "custody": message.custody.told(), "verdict": verdict}
        last, _ = transaction.journal.append("handover", now, agreement.digest, agreement.digest, told)
    return last + 1


def _check_unchanged(connection: Connection, size: int, begun: Handover) -> None:
    """No agreement came into force since the ledger had `size` entries. Raises `EvidenceRefusal` (handover_refused)."""
    if lines.changed(connection, InForce(size, ())):
        raise _refused(begun, ["another agreement came into force meanwhile"])


def _refused(begun: Handover, why: list[str]) -> PerunError:
    """The one answer to everybody; the operator's log has the rest."""
    log.warning("the root key was refused to %s: %s", begun.machine.id or "a machine", "; ".join(why[:16]))
    return refuse(HANDOVER_REFUSED, "this machine is not the manager that every agreement in force admits")
