"""The manager's routes as an OpenAPI 3.1 document, made of what the routes declare: `python -m perunml.manager.openapi`.

docs/spec/openapi.json is this document; a test compares the two, and another walks it without credentials (REFUSALS P13).
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from perunml.api.base import Message
from perunml.api.refusal import RefusalBody
from perunml.manager.http import BYTES_TYPE, Access, Answer
from perunml.manager.routing import Spec

_NAME = re.compile(r"\{([a-z]+)(?::path)?\}")
_WORD = re.compile("[a-z0-9]+")
_REF = "#/components/schemas/{model}"
_SCHEMES: dict[str, dict[str, str]] = {
    "party": {
        "type": "apiKey", "in": "header", "name": "Signature",
        "description": "RFC 9421 by a key that the manager knows, over method, authority, path, query and the body's digest; fresh and once.",
    },
    "machine": {"type": "mutualTLS", "description": "The certificate that the machine got when it enrolled."},
    "lease": {"type": "mutualTLS", "description": "The certificate that the session got with its lease."},
    "witness": {"type": "apiKey", "in": "header", "name": "Signature", "description": "As party, by a stand-alone witness."},
    "joiner": {
        "type": "apiKey", "in": "header", "name": "Path",
        "description": "The unguessable name in the path, which the manager gave to the machine that asks for its root key; good for one request.",
    },
}  # fmt: skip
_SECURITY: dict[Access, list[str]] = {
    Access.OPEN: [],
    Access.PARTY: ["party"],
    Access.MACHINE: ["machine"],
    Access.LEASE: ["lease"],
    Access.PARTY_OR_LEASE: ["party", "lease"],
    Access.WITNESS: ["party", "witness"],
    Access.JOINER: ["joiner"],
}


def document(specs: Iterable[Spec]) -> dict[str, Any]:
    """The document of these routes."""
    listed = list(specs)
    answers = {id(spec): _answer(spec) for spec in listed}
    messages = {found for spec in listed for found in (spec.takes, answers[id(spec)]) if found} | {RefusalBody}
    ordered = sorted(messages, key=lambda message: message.__name__)
    _, schemas = models_json_schema([(message, "serialization") for message in ordered], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for spec in listed:
        path = spec.path.replace(":path}", "}")
        paths.setdefault(path, {})[spec.method.lower()] = _operation(spec, answers[id(spec)])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "A Perun manager",
            "version": "v1",
            "description": "docs/protocol.md says what the messages mean.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": schemas["$defs"], "securitySchemes": _SCHEMES},
    }


def _answer(spec: Spec) -> type[Message] | None:
    found = typing.get_type_hints(spec.action)["return"]
    return None if found is Answer else found


def _operation(spec: Spec, answer: type[Message] | None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": "-".join([spec.method.lower(), *_WORD.findall(_NAME.sub(lambda name: name[1], spec.path))]),
        "security": [{name: []} for name in _SECURITY[spec.access]],
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in _NAME.findall(spec.path)
            ),
            *({"name": name, "in": "query", "schema": {"type": "string"}} for name in spec.query),
        ],
    }
    if spec.method in ("POST", "PUT"):
        made["requestBody"] = {"required": True, "content": _content(spec.takes)}
    shown = (
        {"description": answer.__name__, "content": _content(answer)} if answer else {"description": "bytes, or text"}
    )
    refusals = {
        "400": "not of its form",
        "403": "refused; the one answer for what is not there and what is not allowed",
        "409": "refused for now",
    }
    made["responses"] = {"200": shown} | {
        status: {"description": words, "content": _content(RefusalBody)} for status, words in refusals.items()
    }
    if spec.access is not Access.OPEN:
        made["responses"]["401"] = {"description": "no credentials, or not good ones", "content": _content(RefusalBody)}
    made["responses"] = dict(sorted(made["responses"].items()))
    return made


def _content(message: type[Message] | None) -> dict[str, Any]:
    if message is None:
        return {BYTES_TYPE.decode(): {"schema": {}}}
    return {"application/json": {"schema": {"$ref": _REF.format(model=message.__name__)}}}


def _all() -> list[Spec]:
    """What a manager serves, asked of one that was never started."""
    from perunml.manager import setup
    from perunml.manager.app import specs
    from perunml.manager.config import Config
    from perunml.manager.context import make_services

    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "manager"
        setup.init(where, b"routes", url="https://127.0.0.1:1")
        services = make_services(Config.load(where), setup.unlock(where, b"routes"))
        try:
            return specs(services)
        finally:
            services.database.close()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(_all()), indent=2, ensure_ascii=False) + "\n")
