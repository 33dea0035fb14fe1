"""The application: every route of the manager, each with who may call it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from perunml.manager import (
    agreements,
    assets,
    attestation,
    buckets,
    checkpoints,
    conditions,
    documents,
    enrolment,
    handover,
    hosts,
    ledger,
    outputs,
    quota,
    recovery,
    release,
    renewal,
    runs,
    shares,
    why,
    witnesses,
)
from perunml.manager.auth import identify
from perunml.manager.context import Services
from perunml.manager.http import Endpoint, Receive, Scope, Send, refused, respond, unsigned
from perunml.manager.routing import Spec

_PARAMETER = re.compile(r"\{([a-z]+)(:path)?\}")


def specs(services: Services) -> list[Spec]:
    """All routes, those that hosts ask for most first: they are looked through in order."""
    parts = (
        release, renewal, quota, assets, buckets, checkpoints, runs, enrolment, attestation, documents, agreements, outputs, ledger, hosts, witnesses, conditions, why,
        shares, recovery, handover,
    )  # fmt: skip
    return [spec for part in parts for spec in part.routes(services)]


@dataclass(frozen=True, slots=True)
class Route:
    """A declared route, ready to be matched."""

    method: str
    path: str
    pattern: re.Pattern[str]
    endpoint: Endpoint


class App:
    """The ASGI application: a method and a path, as sent, lead to one endpoint or to the constant answer. Nothing is
    redirected, no method stands in for another: what is not there looks like what is not allowed."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        for route in self.routes:
            if route.method == method and (found := route.pattern.fullmatch(path)):
                scope["path_params"] = found.groupdict()
                return await route.endpoint(scope, receive, send)
        return await respond(send, refused(unsigned()))


def make_app(services: Services) -> App:
    """The ASGI application. The writer must run while it serves."""
    return App(
        [
            Route(
                spec.method,
                spec.path,
                path_pattern(spec.path),
                Endpoint(spec.action, spec.access, identify(services, spec.access), spec.limit),
            )
            for spec in specs(services)
        ]
    )


def path_pattern(path: str) -> re.Pattern[str]:
    """A route's path as an expression: ``{name}`` is one segment, ``{name:path}`` all the rest."""
    text, at = "", 0
    for found in _PARAMETER.finditer(path):
        text += re.escape(path[at : found.start()]) + f"(?P<{found[1]}>{'.*' if found[2] else '[^/]+'})"
        at = found.end()
    return re.compile(text + re.escape(path[at:]))
