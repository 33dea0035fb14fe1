"""Agreements, approvals, suspensions: POST /v1/agreements, GET /v1/agreements[/{digest}],
POST /v1/agreements/{digest}/approvals|withdrawals, POST /v1/suspensions."""

from __future__ import annotations

from perunml.api.base import Message, Signed


class ProposeAgreement(Message):
    """DSSE kind "Agreement", signed by a key of one of its parties."""

    agreement: Signed


class ApproveAgreement(Message):
    """DSSE kind "Approval" (agreements.approvals)."""

    approval: Signed


class WithdrawApproval(Message):
    """DSSE kind "Withdrawal" (agreements.withdrawals)."""

    withdrawal: Signed


class SuspendAsset(Message):
    """DSSE kind "Suspension" (agreements.changes)."""

    change: Signed


class SuspensionView(Message):
    subject: str
    suspended: bool
    digest: str  # of the newest change, the `previous` of the next


class AgreementView(Message):
    """An agreement as the manager holds it, for one of its parties."""

    digest: str
    name: str
    version: int
    state: str  # proposed | in_force | superseded
    agreement: Signed
    approvals: list[Signed]
    withdrawals: list[Signed]
    approved: list[str]
    missing: dict[str, str]  # party -> what is missing, in words
    suspended: list[str]  # asset names


class AgreementList(Message):
    agreements: list[AgreementView]
