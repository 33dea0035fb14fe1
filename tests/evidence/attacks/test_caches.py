"""Attacks by a cache of the vendors' services: who believes a cache's certificates believes no vendor by them."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from client.test_pin import issue, pem
from perunml.client.collateral.web import Services, Web


def test_a_cache_stands_in_a_vendors_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache's own authority vouches for the cache alone: the vendors' hosts are known by the public authorities."""
    authority = pem(issue("cache")[1])
    services = Services(pcs="https://cache.example", tls_ca=authority)
    asked: list[Any] = []
    made = ssl.create_default_context

    def recorded(*args: Any, **how: Any) -> ssl.SSLContext:
        asked.append(how.get("cadata"))
        return made(*args, **how)

    monkeypatch.setattr(ssl, "create_default_context", recorded)
    with Web(services) as web:
        for host in services.vendors:
            web._client(f"https://{host}/anything")
        assert asked == [None]
        web._client("https://cache.example/anything")
        assert asked == [None, authority]
