"""A member's key is replaced: a new version of the agreement that changes nothing but this party's keys.

The party's old board approves it, and its new one; nobody else is asked, and nothing is sealed anew.
"""

from __future__ import annotations

import json
from typing import Any

from perunml.agreements.document import agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.client.codes import NOT_FOUND
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey


def rotated(agreement: Agreement, party: str, member: str, key: str) -> Agreement:
    """The next version of `agreement`, in which `member` of `party` has another key. Raises `UsageError` (not_found, malformed,
    agreement_inconsistent)."""
    found = agreement.parties.get(party)
    if found is None or member not in found.keys:
        known = ", ".join(found.keys) if found else ", ".join(agreement.parties)
        raise refuse(NOT_FOUND, "no such member", expected=known, seen=f"{party} {member}")
    document: dict[str, Any] = json.loads(agreement.payload)
    document["metadata"] = {
        **document["metadata"],
        "version": agreement.metadata.version + 1,
        "predecessor": agreement.digest,
    }
    document["parties"][party]["keys"][member] = PublicKey(key).text
    return agreement_from_json(document)
