"""Asks vendors' services over TLS: whole answers of a bounded size within a bounded time, no redirects, no proxies, and no address
that is not built here. What a certificate names as an address is never looked at (K15).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from perunml.client.collateral.codes import VENDOR_ANSWER
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse

if TYPE_CHECKING:
    import httpx

PCS = "https://api.trustedservices.intel.com"
"""Intel's Provisioning Certification Service (API version 4)."""
PCS_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
"""The root's revocation list, which the service itself does not have."""
KDS = "https://kdsintf.amd.com"
"""AMD's Key Distribution Service (publication 57230, chapter 4)."""
RIM = "https://rim.attestation.nvidia.com"
OCSP = "https://ocsp.ndis.nvidia.com"
MAX_ANSWER = 1024 * 1024
"""Bytes of an answer: what one item of collateral may have."""
STEP = 20.0
"""Seconds without a byte."""
WHOLE = 60.0
"""Seconds for a whole answer."""
GOOD = 200


@dataclass(frozen=True, slots=True)
class Services:
    """Where the vendors' services are, https addresses without a path's end: the vendors' own, or caches of them.

    tls_ca   certificates in PEM that caches are believed by, instead of the public authorities; the vendors' own never are
    """

    pcs: str = PCS
    kds: str = KDS
    rim: str = RIM
    ocsp: str = OCSP
    tls_ca: str = ""

    def __post_init__(self) -> None:
        """Raises `UsageError` (malformed)."""
        for url in (self.pcs, self.kds, self.rim, self.ocsp):
            parts = urlsplit(url)
            if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
                raise refuse(MALFORMED, "not a service's address", expected="https://host[:port][/path]", seen=url)
        if self.tls_ca:
            try:
                ssl.create_default_context(cadata=self.tls_ca)
            except (ssl.SSLError, ValueError, TypeError):
                raise refuse(MALFORMED, "not certificates that a cache could be known by", expected="PEM") from None

    @property
    def vendors(self) -> frozenset[str]:
        """Hosts of the vendors themselves."""
        return frozenset(str(urlsplit(url).hostname) for url in (PCS, PCS_ROOT_CRL, KDS, RIM, OCSP))


@dataclass(frozen=True, slots=True)
class Answer:
    """`headers` by lower-case name."""

    body: bytes
    headers: Mapping[str, str]


@dataclass
class Web:
    """One collection's requests; the same one is sent once. `clock` gives seconds that only rise."""

    services: Services
    clock: Callable[[], float] = time.monotonic
    step: float = STEP
    whole: float = WHOLE
    _clients: dict[bool, httpx.Client] = field(default_factory=dict)
    _answers: dict[str, Answer] = field(default_factory=dict)
    _silent: dict[str, PerunError] = field(default_factory=dict)

    def __enter__(self) -> Web:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            client.close()

    def get(self, url: str) -> Answer:
        """Raises `Unreachable` (vendor_answer)."""
        if url not in self._answers:
            self._answers[url] = self._exchange("GET", url, b"", {})
        return self._answers[url]

    def post(self, url: str, body: bytes, kind: str) -> Answer:
        """Raises `Unreachable` (vendor_answer)."""
        return self._exchange("POST", url, body, {"content-type": kind})

    def _exchange(self, method: str, url: str, body: bytes, headers: dict[str, str]) -> Answer:
        import httpx

        host = urlsplit(url).netloc
        if host in self._silent:  # once is enough to wait for
            raise self._silent[host]
        end = self.clock() + self.whole
        try:
            with self._client(url).stream(
                method, url, content=body or None, headers={**headers, "accept-encoding": "identity"}
            ) as response:
                got = bytearray()
                if response.status_code != GOOD:
                    raise strange(url, f"HTTP status {response.status_code}", "HTTP status 200")
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise strange(url, "a compressed answer", "bytes as they are")
                for chunk in response.iter_raw():
                    got += chunk
                    if len(got) > MAX_ANSWER:
                        raise strange(url, "a longer one", f"an answer of at most {MAX_ANSWER} bytes")
                    if self.clock() > end:
                        raise strange(url, "it is not at its end", f"an answer within {self.whole:.0f} s")
                return Answer(bytes(got), {name.lower(): value for name, value in response.headers.items()})
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as exc:
            self._silent[host] = strange(url, str(exc) or type(exc).__name__, "an answer")
            raise self._silent[host] from None

    def _client(self, url: str) -> httpx.Client:
        import httpx

        own = urlsplit(url).hostname in self.services.vendors
        if own not in self._clients:
            cache = self.services.tls_ca and not own
            context = ssl.create_default_context(cadata=self.services.tls_ca if cache else None)
            self._clients[own] = httpx.Client(
                verify=context, timeout=self.step, trust_env=False, follow_redirects=False
            )
        return self._clients[own]


def strange(url: str, seen: str, expected: str) -> PerunError:
    """The error for an answer that is none."""
    return refuse(VENDOR_ANSWER, f"no usable answer from {url}", expected=expected, seen=seen)
