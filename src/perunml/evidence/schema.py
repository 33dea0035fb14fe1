"""The JSON Schema of baselines, made from what reads them (`baseline`, `rules`); docs/spec/baseline.schema.json publishes it.

It says the shape. What no schema can say (sorted lists, byte lengths of paths, one spelling per meaning) is in
docs/spec/baseline.md.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from perunml.evidence.baseline import MAX_UNTIL
from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.rules import MAX_ITEMS, MAX_PATH, MAX_WORD, STRONG_BANKS, BootRules, ImaRules, TpmRules
from perunml.wire.dsse import API_VERSION

DIGEST = "^(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})$"
_DIGEST = {"type": "string", "pattern": DIGEST}
_PATH = {"type": "string", "minLength": 1, "maxLength": MAX_PATH}
_WORD = {"type": "string", "pattern": "^[!-~]+$", "maxLength": MAX_WORD}
_PCR = {"type": "integer", "enum": [*range(10), *range(11, 15)]}
_FIRMWARE = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
_ITEMS: dict[str, dict[str, Any]] = {
    "require": _PATH,
    "violations": _PATH,
    "cmdline": _WORD,
    "no_cmdline": _WORD,
    "open": _PCR,
    "denied_firmware": _FIRMWARE,
}
"""What a list of this name holds; every other list holds digests."""


def baseline_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a `Baseline` document."""
    state = {"pcrs": _pcrs(), "files": _files()}
    window = _object(
        {"end": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z$"}, **state}, all_of_them=True
    )
    found = _object(
        {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": "Baseline"},
            **state,
            "boot": _rules(BootRules),
            "ima": _rules(ImaRules),
            "tpm": _rules(TpmRules),
            "until": {"type": "array", "minItems": 1, "maxItems": MAX_UNTIL, "items": window},
        }
    )
    found["required"] = ["apiVersion", "files", "kind", "pcrs"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Baseline", **found}


def _pcrs() -> dict[str, Any]:
    return _object(
        {
            bank: {
                "type": "object",
                "propertyNames": {"pattern": "^([0-9]|1[0-9]|2[0-3])$"},
                "additionalProperties": {"type": "string", "pattern": f"^[0-9a-f]{{{2 * BANK_SIZES[bank]}}}$"},
            }
            for bank in STRONG_BANKS
        }
    )


def _files() -> dict[str, Any]:
    digests = {"type": "array", "minItems": 1, "uniqueItems": True, "items": _DIGEST}
    return {"type": "object", "propertyNames": {"minLength": 1, "maxLength": MAX_PATH}, "additionalProperties": digests}


def _rules(kind: type[BootRules] | type[ImaRules] | type[TpmRules]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for rule in fields(kind):
        items = _ITEMS.get(rule.name, _DIGEST)
        listed = {"type": "array", "minItems": 1, "maxItems": MAX_ITEMS, "uniqueItems": True, "items": items}
        found[rule.name] = {"const": True} if rule.default is False else listed
    return {**_object(found), "minProperties": 1} if kind is not BootRules else _object(found)


def _object(properties: dict[str, Any], *, all_of_them: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**found, "required": sorted(properties)} if all_of_them else found
