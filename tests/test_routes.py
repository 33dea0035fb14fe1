"""docs/protocol.md's tables of routes are the applications' own: method, path, who may call, what is answered."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import typing
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from starlette.routing import Route

import perunml.api
from perunml.api.base import Message
from perunml.manager import setup
from perunml.manager.app import make_app, specs
from perunml.manager.config import Config
from perunml.manager.context import Services, make_services
from perunml.manager.http import Answer
from perunml.manager.openapi import document
from perunml.serving import gateway
from perunml.serving.service import Service
from perunml.wire import passphrase

SECTION = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text().partition("## 12. Routes")[2]
MANAGER, SERVICE = SECTION.partition("A service, ")[::2]
ROW = re.compile(r"^\| ([A-Z]+) \| `(\S+)` \| ([a-z ]+) \| (.+) \|$", re.MULTILINE)


def listed(part: str) -> dict[tuple[str, str], tuple[str, str]]:
    """(method, path) to (who, answer) of a table; no route stands there twice."""
    rows = ROW.findall(part)
    found = {(method, path): (who, answer) for method, path, who, answer in rows}
    assert len(found) == len(rows) == part.count("\n| ") - 1, "a row is not of its form, or stands there twice"
    return found


def plain(path: str) -> str:
    """A path as people write it."""
    return path.replace("{path:path}", "{path}")


def messages() -> set[str]:
    """The names of all messages in `perunml.api`."""
    found = set()
    for info in pkgutil.iter_modules(perunml.api.__path__, "perunml.api."):
        found |= {
            name
            for name, value in vars(importlib.import_module(info.name)).items()
            if isinstance(value, type) and issubclass(value, Message)
        }
    return found


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> typing.Iterator[Services]:
    """A manager's, not started."""
    folder = tmp_path_factory.mktemp("routes") / "manager"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passphrase, "LOG_N", 10)
        setup.init(folder, b"a passphrase for tests", url="https://127.0.0.1:1")
        keys = setup.unlock(folder, b"a passphrase for tests")
    made = make_services(Config.load(folder), keys)
    yield made
    made.database.close()


def test_the_managers_routes_are_listed_with_who_may_call_and_what_they_answer(services: Services) -> None:
    """Row by row: a route that is not in the table, or of which the table says something else, is found."""
    real = {}
    for spec in specs(services):
        answer = typing.get_type_hints(spec.action)["return"]
        real[spec.method, plain(spec.path)] = (spec.access.value, None if answer is Answer else f"`{answer.__name__}`")
    told = listed(MANAGER)
    assert len(real) > 30
    assert {route: who for route, (who, _) in told.items()} == {route: who for route, (who, _) in real.items()}
    for route, (_, answer) in real.items():
        said = told[route][1]
        if answer is not None:
            assert said == answer, route
        else:
            assert said.strip("`") not in messages(), route


def test_the_application_serves_what_its_modules_declare_and_no_more(services: Services) -> None:
    """No route is added beside the declared ones, and GET brings no HEAD."""
    served = [(route.method, plain(route.path)) for route in make_app(services).routes]
    assert len(served) == len(set(served))
    assert set(served) == set(listed(MANAGER))


def test_a_services_routes_are_listed() -> None:
    """All open: what is asked is sealed and signed within. Starlette answers HEAD where there is a GET."""
    service = create_autospec(Service, instance=True)
    served = set()
    for route in gateway.make_app(service).routes:
        assert isinstance(route, Route)
        served |= {(method, route.path) for method in (route.methods or set()) - {"HEAD"}}
    told = listed(SERVICE)
    assert served == set(told)
    for who, answer in told.values():
        assert who == "open"
        assert answer.strip("`") in messages() or answer.startswith("frames ([spec/inference.md]")


OPENAPI = Path(__file__).parents[1] / "docs" / "spec" / "openapi.json"


def test_the_openapi_document_is_what_the_manager_serves(services: Services) -> None:
    """`python -m perunml.manager.openapi > docs/spec/openapi.json` makes it anew."""
    assert json.loads(OPENAPI.read_text()) == document(specs(services))


def test_the_openapi_document_names_what_there_is() -> None:
    """Every reference leads somewhere, every operation has a name of its own, and says who may call it; what is in a path is declared."""
    made = json.loads(OPENAPI.read_text())
    assert made["openapi"].startswith("3.1.")
    schemas = made["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/(\w+)"', OPENAPI.read_text()):
        assert name in schemas
    operations = [(path, one) for path, found in made["paths"].items() for one in found.values()]
    names = [one["operationId"] for _, one in operations]
    assert len(set(names)) == len(names)
    for path, one in operations:
        declared = {parameter["name"] for parameter in one["parameters"] if parameter["in"] == "path"}
        assert declared == set(re.findall(r"\{(\w+)\}", path))
        assert {name for scheme in one["security"] for name in scheme} <= set(made["components"]["securitySchemes"])


def test_bodies_are_told_as_they_are_read() -> None:
    """Each module decodes the very messages that its routes declare; what is asked for behind a question mark is declared too."""
    for module in (Path(__file__).parents[1] / "src" / "perunml" / "manager").glob("*.py"):
        text = module.read_text()
        read = set(re.findall(r"(\w+)\.decode\((?:call\.)?body[,)]", text))
        assert read == set(re.findall(r"takes=(\w+)", text)), module.name
        asked = set(re.findall(r'call\.query(?:\.get\(|\[)"(\w+)"', text)) | set(
            re.findall(r'number\(call, "(\w+)"', text)
        )
        told = {name for found in re.findall(r"query=\(([^)]*)\)", text) for name in re.findall(r'"(\w+)"', found)}
        assert asked == told, module.name
