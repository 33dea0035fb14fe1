"""Who may ask a service."""

from __future__ import annotations

from perunml.agreements.jobs import ServiceJob
from perunml.agreements.schema import Agreement
from perunml.release import codes
from perunml.wire.errors import refuse


def check_client(agreement: Agreement, job: str, key: str) -> str:
    """The client party to which the signing key `key` belongs. Raises `AgreementRefusal` (job_unknown,
    client_not_in_agreement)."""
    found = agreement.jobs.get(job)
    if not isinstance(found, ServiceJob):
        raise refuse(codes.JOB_UNKNOWN, f"{agreement.name} has no service {job!r}", seen=job)
    party = agreement.party_of(key)
    if party is None or party not in found.clients:
        raise refuse(
            codes.CLIENT_NOT_IN_AGREEMENT,
            f"this key may not ask {job}",
            expected="a key of " + " or ".join(found.clients),
            seen=f"{key} of {party}" if party else key,
        )
    return party


def client_keys(agreement: Agreement, job: ServiceJob) -> dict[str, list[str]]:
    """Party -> key texts that a service answers."""
    return {party: list(agreement.parties[party].keys.values()) for party in job.clients}
