"""What every agreement in force says of a machine that asks for the manager's root key: the judging part of `handover`."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from perunml.agreements.profiles import AnyProfile, alternatives
from perunml.agreements.schema import Agreement
from perunml.api.handover import HandoverAnswer, handover_activation, handover_binding
from perunml.api.trust import RootCustody
from perunml.evidence.bundle import Bundle
from perunml.evidence.endorsements import Endorsements
from perunml.evidence.judge import NO_ENDORSEMENTS, Judgement, judge
from perunml.evidence.policy import Machine, Policy
from perunml.manager import verdicts
from perunml.manager.codes import ENROLMENT_FAILED, HANDOVER_CLOSED
from perunml.manager.context import Services
from perunml.manager.lines import InForce
from perunml.manager.pending import Handover
from perunml.manager.store.connection import Connection
from perunml.release.managers import custody_reasons, machine_reasons
from perunml.wire.canonical import canonical
from perunml.wire.errors import PerunError, refuse
from perunml.wire.rules import Reason

_OWNERS = "SELECT DISTINCT owner FROM assets WHERE run = '' ORDER BY owner"
log = logging.getLogger("perunml.manager")


@dataclass(frozen=True, slots=True)
class Question:
    """What every agreement in force asks of a manager, in one snapshot: policies, or why there are none; `uncovered` are owners who have data here and
    no agreement."""

    agreements: tuple[Agreement, ...]
    policies: tuple[tuple[Policy, ...] | PerunError, ...]
    uncovered: tuple[str, ...]
    endorsements: Endorsements
    now: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one agreement's profile made of the evidence: no reasons where it admits the machine."""

    judged: Judgement | None
    reasons: tuple[Reason, ...]


def ask(services: Services, connection: Connection, known: InForce) -> Question:
    """What is to be judged by, of the agreements in force. Raises `AgreementRefusal` (handover_closed); `Unread`."""
    held = [services.library.held(connection, digest) for digest in known.digests]
    if not held:
        raise closed("no agreement is in force")
    policies = tuple(_policies(services, connection, one.agreement) for one in held)
    known_to_all = [policy for each in policies if isinstance(each, tuple) for policy in each]
    judged = any(policy.tee is not None or policy.gpu is not None for policy in known_to_all)
    endorsements = _endorsements(services, connection) if judged else NO_ENDORSEMENTS
    owners = [str(row[0]) for row in connection.run(_OWNERS).all()]
    covered = {
        key
        for one in held
        for party in one.agreement.parties
        for key in services.library.keys_of(connection, one, party)
        if key in owners and services.library.agreed(connection, one, key, party)
    }
    return Question(
        tuple(one.agreement for one in held),
        policies,
        tuple(owner for owner in owners if owner not in covered),
        endorsements,
        services.clock.now(),
    )


def _endorsements(services: Services, connection: Connection) -> Endorsements:
    """None where the operator's bundles cannot be used: a TEE is then refused for what it lacks."""
    try:
        return services.collateral.endorsements(connection)
    except PerunError as exc:
        log.warning("no collateral: %s", exc)
        return NO_ENDORSEMENTS


def _policies(services: Services, connection: Connection, agreement: Agreement) -> tuple[Policy, ...] | PerunError:
    try:
        return verdicts.policies_of(services, connection, agreement, agreement.manager.profile)
    except PerunError as exc:  # a baseline is not at hand, or not signed: for the agreement's parties to know
        return exc


def judge_all(services: Services, question: Question, begun: Handover, message: HandoverAnswer) -> list[Verdict]:
    """A verdict for each agreement, in order; for any thread. Evidence that nobody can read is good for none."""
    manager, machine = services.keys.identity.public.text, begun.machine
    bound = handover_binding(
        nonce=begun.nonce, manager=manager, hpke=message.hpke, custody=message.custody, machine=machine.id
    )
    expected = handover_activation(begun.secret, manager, begun.nonce) if begun.secret else ""
    try:
        if not hmac.compare_digest(expected.encode(), message.activation.encode()):
            raise refuse(ENROLMENT_FAILED, "the TPM does not hold the key that signed the evidence", seen=machine.id)
        bundle = Bundle.from_json(message.evidence)
    except PerunError as exc:
        return [Verdict(None, exc.reasons) for _ in question.agreements]
    made: dict[bytes, Verdict] = {}
    found = []
    for agreement, policies in zip(question.agreements, question.policies, strict=True):
        if isinstance(policies, PerunError):
            found.append(Verdict(None, policies.reasons))
            continue
        role = agreement.manager.profile
        text = canonical(
            json.loads(agreement.payload)["manager"]["profile"]
        )  # as written: the same words, the same verdict
        if text not in made:
            made[text] = _one(question, alternatives(role), policies, machine, bundle, bound, message.custody)
        found.append(made[text])
    return found


def _one(
    question: Question,
    profiles: tuple[AnyProfile, ...],
    policies: tuple[Policy, ...],
    machine: Machine,
    bundle: Bundle,
    bound: bytes,
    custody: RootCustody,
) -> Verdict:
    """Under the first alternative that is met; else every reason, each once."""
    failed: dict[Reason, None] = {}
    for profile, policy in zip(profiles, policies, strict=True):
        judged = judge(
            bundle, machine=machine, policy=policy, binding=bound, now=question.now, endorsements=question.endorsements
        )
        reasons = tuple(_reasons(judged, profile, bound, custody))
        if not reasons:
            return Verdict(judged, ())
        failed |= dict.fromkeys(reasons)
    return Verdict(None, tuple(failed))


def _reasons(judged: Judgement, profile: AnyProfile, bound: bytes, custody: RootCustody) -> Iterator[Reason]:
    appraisal = judged.appraisal
    yield from appraisal.reasons
    if appraisal.binding == bound:  # else nothing was verified, and there are reasons
        yield from machine_reasons(profile, appraisal.identities)
        yield from custody_reasons(appraisal.profile, custody.kind, custody.pcrs, None)


def closed(why: str) -> PerunError:
    """The refusal of a manager that hands its root key to nobody; `why` is for its operator's log."""
    log.warning("the root key stays: %s", why)
    return refuse(HANDOVER_CLOSED, "this manager hands its root key to nobody")
