"""A real manager in a thread, for parties' command lines to talk to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from cli.kit import Party
from perunml.manager import setup
from perunml.manager.server import Server

PASSPHRASE = b"the manager's own"
PROFILE = "{apiVersion: perunml/v1, kind: ManagerProfile, profile: {profile: simulated}}"


class Manager:
    """One manager's folder and its address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.identity = setup.init(folder, PASSPHRASE, url="https://127.0.0.1:1")
        self.profile = folder.parent / "profile.yaml"
        self.profile.write_text(PROFILE)

    @contextlib.contextmanager
    def running(self, port: int = 0) -> Iterator[str]:
        """The URL while it runs."""
        server = Server(self.folder, PASSPHRASE, "127.0.0.1", port)
        _, self.port = server.start()
        self.url = f"https://127.0.0.1:{self.port}"
        try:
            yield self.url
        finally:
            server.stop()

    def party(self, home: Path, name: str) -> Party:
        """A new party that this manager admits and that pinned it."""
        made = Party(home)
        key = made.ok("id", "create", "--name", name)["identity"]
        setup.admit(self.folder, [key])
        made.ok("trust", self.url, "--profile", self.profile)
        return made
