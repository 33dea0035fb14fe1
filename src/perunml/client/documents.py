"""Documents beside agreements: read from YAML or JSON, checked, ready to be signed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perunml.evidence.baseline import MAX_BASELINE, Baseline
from perunml.wire.canonical import load_json, load_yaml
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import API_VERSION
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey

if TYPE_CHECKING:
    from perunml.agreements.review import Section
    from perunml.agreements.schema import Agreement
    from perunml.client.connection import Connection


def read_document(data: bytes) -> tuple[str, dict[str, Any]]:
    """(kind, body without apiVersion and kind) of a document that `document push` sends. Raises `UsageError`
    (malformed): unknown kinds, and bodies that are not of their form."""
    return "Baseline", read_baseline(data).as_json()


def read_baseline(data: bytes) -> Baseline:
    """The baseline in a YAML or JSON document. Raises as `read_document`."""
    value = load_json(data, limit=MAX_BASELINE) if data.lstrip()[:1] == b"{" else load_yaml(data)
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind != "Baseline" or value.get("apiVersion") != API_VERSION:
        raise refuse(MALFORMED, "not a document that can be sent", expected=f"{API_VERSION} Baseline", seen=str(kind))
    return Baseline.from_json(value)


def about_baselines(connection: Connection, agreement: Agreement) -> Section | None:
    """In sentences, each baseline that the agreement names, as the manager holds it: what it lists, and who signed it. The
    agreement's digest pins it, whoever that was. None where no baseline is named. Raises `IntegrityError` (wrong_document)."""
    from perunml.agreements.profiles import alternatives
    from perunml.agreements.review import Section

    said = []
    for role, profile in agreement.hosts.items():
        for digest in dict.fromkeys(one.baseline_digest for one in alternatives(profile)):
            if digest:
                said.append(f"{role}: {_about(connection, agreement, digest)}")
    return Section("Baselines", tuple(said)) if said else None


def _about(connection: Connection, agreement: Agreement, digest: str) -> str:
    from perunml.api.assets import PushDocument
    from perunml.client.codes import WRONG_DOCUMENT

    try:
        found = connection.call("GET", f"/v1/documents/{digest}", PushDocument).document
    except PerunError as exc:
        if exc.code != "not_entitled":
            raise
        return f"{digest} is not at the manager yet; without it every host is refused."
    if found.digest != digest:
        raise refuse(WRONG_DOCUMENT, "another document came", expected=digest, seen=found.digest)
    baseline = Baseline.from_payload(found.payload)
    signers = []
    for key, _ in found.signatures:
        found.verify("Baseline", [PublicKey(key)])
        signers.append(f"{agreement.party_of(key) or 'none of the parties'} ({key})")
    values = ", ".join(f"{len(held)} PCRs of {bank}" for bank, held in baseline.pcrs.items()) or "no PCRs"
    return f"{digest} lists {len(baseline.files)} files and {values}; signed by {', '.join(signers)}."
