"""What parties are told of a host that was refused: GET /v1/hosts/{name}."""

from __future__ import annotations

from perunml.api.base import Document, Message


class HostRefusal(Message):
    """The last judgement under one agreement that refused the host: when (RFC 3339), for which run and purpose, and every
    reason, as the ledger has it."""

    agreement: str
    run: str
    purpose: str
    time: str
    reasons: list[Document]


class HostView(Message):
    """A host by the name that its operator gave it, and by its machine's id."""

    name: str
    machine: str
    simulated: bool
    refusals: list[HostRefusal]


class HostList(Message):
    """All hosts of that name that the caller may know of: names are each operator's own."""

    hosts: list[HostView]
