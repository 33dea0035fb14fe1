"""The application: every route of the manager, each with who may call it."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from perunml.manager import (
    agreements,
    assets,
    attestation,
    documents,
    enrolment,
    ledger,
    outputs,
    quota,
    release,
    renewal,
    runs,
)
from perunml.manager.auth import identify
from perunml.manager.context import Services
from perunml.manager.http import Endpoint, broken, refused, unsigned
from perunml.manager.routing import Spec


def specs(services: Services) -> list[Spec]:
    """All routes, those that hosts ask for most first: they are looked through in order."""
    parts = (
        release, renewal, quota, assets, runs, enrolment, attestation, documents, agreements, outputs, ledger,
    )  # fmt: skip
    return [spec for part in parts for spec in part.routes(services)]


def make_app(services: Services) -> Starlette:
    """The ASGI application. The writer must run while it serves."""
    app = Starlette(
        routes=list(_routes(services, specs(services))),
        exception_handlers={404: _unknown, 405: _unknown, Exception: _broken},
    )
    # A redirect would tell a stranger which paths exist, and go to whatever host the stranger named.
    app.router.redirect_slashes = False
    return app


def _routes(services: Services, found: Iterable[Spec]) -> Iterable[Route]:
    for spec in found:
        endpoint = Endpoint(spec.action, spec.access, identify(services, spec.access), spec.limit)
        route = Route(spec.path, endpoint, methods=[spec.method])
        route.methods = {spec.method}  # Starlette adds HEAD to GET; nobody asked for it
        yield route


async def _unknown(request: Request, exc: Exception) -> Response:
    """What is not there looks like what is not allowed."""
    answer = refused(unsigned())
    return Response(answer.body, answer.status, media_type="application/json")


async def _broken(request: Request, exc: Exception) -> Response:
    answer = broken(request.scope, exc)
    return Response(answer.body, answer.status, media_type="application/json")
