"""The server: TLS 1.3 and nothing older, client certificates optional, one port, one process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import uvicorn
from cryptography.hazmat.primitives import serialization

from perunml.manager import counter, epoch
from perunml.manager.app import make_app
from perunml.manager.clock import Clock
from perunml.manager.config import Config, locked
from perunml.manager.context import Services, make_services
from perunml.manager.custody import Custody
from perunml.manager.device import Device
from perunml.manager.keys import Keys
from perunml.manager.protocol import Protocol
from perunml.manager.setup import unlock
from perunml.manager.sweep import sweep_forever

Ready = Callable[[tuple[str, int]], None]
"""Called with (host, port) once connections are taken."""
KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open: longer than two leases, so that hosts renew over one handshake."""
GC_THRESHOLD = (20_000, 20, 20)
"""Objects made before Python looks for circles: a release makes some hundreds, and leaves none."""
MAX_CONNECTIONS = 4096
BACKLOG = 2048


class Server:
    """A manager on a port. `custody` keeps its root key (bytes are a passphrase), `device` stands for the folder's own. `start` returns when it listens; `stop` lets what is under way end."""

    def __init__(
        self,
        folder: Path,
        custody: Custody | bytes | Keys,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        device: Device | None = None,
    ) -> None:
        config = Config.load(folder)
        if device is not None:
            config = replace(config, device=device)
        self._locked = locked(folder)
        self._locked.__enter__()
        try:
            keys = custody if isinstance(custody, Keys) else unlock(folder, custody)
            self.services = make_services(config, keys, clock=clock)
            counter.check(self.services)
            epoch.begin(self.services)
            self._socket = _listen(host, port)
        except BaseException:
            self._locked.__exit__(None, None, None)
            raise
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        # A manager set up for port 0 is reached where it listens.
        self.services.authorities.update(
            (f"{host}:{self.address[1]}".lower(), self.url.removeprefix("https://").lower())
        )
        self._uvicorn = uvicorn.Server(_settings(self.services))
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where parties reach it: the url it was set up with, or for port 0 where it listens."""
        url = self.services.config.url
        return f"{url[:-1]}{self.address[1]}" if url.endswith(":0") else url

    def run(self, ready: Ready | None = None) -> None:
        """Serve until stopped (SIGTERM, SIGINT, or `stop`); `ready` is called once connections are taken."""
        # What is loaded by now stays: the collector need not look at it again and again on the way to a release.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        try:
            asyncio.run(self._serve(ready))
        finally:
            self.services.database.close()
            self._socket.close()
            self._locked.__exit__(None, None, None)

    def start(self) -> tuple[str, int]:
        """Serve from a thread of its own."""
        event = threading.Event()
        self._thread = threading.Thread(target=self.run, args=(lambda _: event.set(),), name="perunml-manager")
        self._thread.start()
        event.wait(30)
        return self.address

    def stop(self) -> None:
        self._uvicorn.should_exit = True
        if self._thread is not None:
            self._thread.join()

    async def _serve(self, ready: Ready | None) -> None:
        writing = asyncio.create_task(self.services.writer.run())
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))
        sweeping = asyncio.create_task(sweep_forever(self.services))
        while not self._uvicorn.started and not serving.done():
            await asyncio.sleep(0.005)
        if ready is not None and not serving.done():
            ready(self.address)
        try:
            await serving
        finally:
            sweeping.cancel()
            self.services.writer.stop()
            await writing


def serve(
    folder: Path,
    custody: Custody | bytes,
    host: str,
    port: int,
    ready: Ready | None = None,
) -> None:
    """Run the manager of `folder` until it is told to stop. `ready` gets (host, port) when it takes connections; port 0 is
    any. Raises `UsageError` (folder_in_use), `IntegrityError` (unseal_failed, state_damaged), `OSError` for the port."""
    server = Server(folder, custody, host, port)
    # What the program itself is made of lives as long as it does: no collection need walk it again.
    gc.collect()
    gc.freeze()
    server.run(ready)


def _settings(services: Services) -> uvicorn.Config:
    return uvicorn.Config(
        make_app(services),
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=5,
        limit_concurrency=MAX_CONNECTIONS,
        backlog=BACKLOG,
        ssl_context_factory=lambda config, default: tls_context(services),
    )


def tls_context(services: Services) -> ssl.SSLContext:
    """TLS 1.3 alone; a client certificate is welcome if our hosts' CA made it; no resumption, so that each connection
    shows its certificate anew (C7)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=(services.config.folder / "host-ca.pem").read_text("ascii"))
    key = services.keys.tls_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with _memory_file(services.certificate.encode("ascii") + key) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _memory_file(data: bytes) -> Iterator[str]:
    """A path to anonymous memory that holds `data`, overwritten at the end: `ssl` reads keys from files only, and this key
    never touches a disk."""
    descriptor = os.memfd_create("perunml", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.pwrite(descriptor, bytes(len(data)), 0)
        os.close(descriptor)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: asyncio sets TCP_NODELAY only where it sees that a socket is TCP.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with contextlib.ExitStack() as stack:
        stack.callback(made.close)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
        stack.pop_all()
    return made
