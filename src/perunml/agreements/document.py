"""Agreements as documents: read from YAML or JSON, put in envelopes, described by a JSON Schema.

The digest is over the document as written, parsed and in RFC 8785 form; defaults are not filled in. So YAML and JSON of the
same content have one digest, and a later version of the schema never changes the name of what was signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from perunml.agreements.checks import inconsistencies
from perunml.agreements.codes import FORMAT_REFUSED
from perunml.agreements.schema import Agreement, Source
from perunml.wire.canonical import canonical, load_json, load_yaml
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import API_VERSION, Envelope, payload_type
from perunml.wire.errors import error, refuse
from perunml.wire.identity import PublicKey
from perunml.wire.rules import Reason

MAX_AGREEMENT = 1024 * 1024
"""Largest agreement, in bytes: one of 50 assets and 10 parties has some 30 KiB."""
MAX_REASONS = 32
"""Most faults told at once."""
SCHEMA_ID = "urn:perunml:schema:v1:agreement"


def load_agreement(data: bytes) -> Agreement:
    """The agreement in YAML or JSON text. Raises `UsageError` with a reason for each fault (malformed, format_refused,
    agreement_inconsistent)."""
    is_json = data.lstrip()[:1] == b"{"
    return agreement_from_json((load_json if is_json else load_yaml)(data, limit=MAX_AGREEMENT))


def agreement_from_json(value: Any) -> Agreement:
    """The agreement of a parsed document. Raises as `load_agreement`."""
    try:
        payload = canonical(value)
    except ValueError as exc:
        raise refuse(MALFORMED, f"the agreement has no canonical form: {exc}") from None
    # What is read is what is signed: 1.0 and 1 are written alike, so they must be read alike by whoever gets the bytes.
    value = load_json(payload, limit=MAX_AGREEMENT)
    try:
        made = Agreement.model_validate(value, context=Source(payload))
    except ValidationError as exc:
        raise error(_reasons(exc)) from None
    if faults := inconsistencies(made):
        raise error(faults[:MAX_REASONS])
    return made


def agreement_envelope(agreement: Agreement) -> Envelope:
    """An unsigned DSSE envelope of kind "Agreement"; its digest is the agreement's."""
    return Envelope(payload_type("Agreement"), agreement.payload)


def open_agreement(envelope: Envelope) -> Agreement:
    """The agreement in an envelope that a key of one of its own parties signed: whoever proposes it takes part in it.
    Raises `UsageError` for its form, `IntegrityError` for the signature."""
    made = agreement_from_json(envelope.unverified("Agreement"))
    envelope.verify("Agreement", [PublicKey(key) for party in made.parties.values() for key in party.keys.values()])
    return made


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of agreements, from the very types that read them."""
    made = _written(Agreement.model_json_schema(by_alias=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **made,
        "title": f"{API_VERSION} Agreement",
    }


def _written(schema: Any) -> Any:
    """The schema of documents as people write them: names that do not match are refused, and defaults that the types
    hold as bytes or seconds (where a text is written) are left to the description."""
    if isinstance(schema, list):
        return [_written(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _written(value) for key, value in schema.items() if key not in ("minimum", "maximum")}
    if schema.get("type") != "string":
        made |= {key: schema[key] for key in ("minimum", "maximum") if key in schema}
    elif isinstance(schema.get("default"), int):
        del made["default"]
    if "patternProperties" in schema:
        made["additionalProperties"] = False
    return made


def _faults(exc: ValidationError) -> Iterator[tuple[str, str, str]]:
    """(type, place, message) of each of pydantic's errors; values are not shown, unions' inner tags are left out."""
    for found in exc.errors(include_input=False, include_url=False):
        place = ".".join(str(step) for step in found["loc"] if not str(step).startswith("<"))
        yield found["type"], place or "the document", found["msg"]


def _reasons(exc: ValidationError) -> list[Reason]:
    return [
        Reason(FORMAT_REFUSED if kind == "format_refused" else MALFORMED, f"{place}: {message}")
        for kind, place, message in list(_faults(exc))[:MAX_REASONS]
    ]
