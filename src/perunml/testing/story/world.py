"""The world of the story: who there is, where their folders lie, which processes run."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import perunml
from perunml.testing.story.processes import Party, Server, StoryError, command

PARTIES = ("st-vitus", "acme", "modelworks", "gpu-cloud", "clinic")
MEASURED = (Path(sys.executable).resolve(), *sorted(Path(perunml.__file__).parent.glob("host/*.py")))
"""What the imitated IMA log shows: the interpreter and the host's own code."""
MANAGER_PROFILE = """\
apiVersion: perunml/v1
kind: ManagerProfile
key: "{identity}"
profile: {{profile: simulated}}
"""


@dataclass
class World:
    """Everything that runs, under one folder. `close` stops it by process id."""

    folder: Path
    parties: dict[str, Party] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    manager_url: str = ""
    manager_identity: str = ""
    tpm: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*PARTIES, "manager", "stranger"):
            folder = self.folder / name
            folder.mkdir(parents=True, mode=0o700)
            self.parties[name] = Party(name, folder)

    def __getitem__(self, name: str) -> Party:
        return self.parties[name]

    def close(self) -> None:
        for server in reversed(self.servers.values()):
            with contextlib.suppress(OSError):
                server.stop()

    # --- the manager ---

    def init_manager(self) -> None:
        manager = self["manager"]
        self.manager_url = f"https://127.0.0.1:{free_port()}"
        made = manager.run(
            "manager",
            "init",
            "--folder",
            str(manager.folder / "state"),
            "--url",
            self.manager_url,
            *[a for root in self.tpm["roots"] for a in ("--simulated-ek-root", root)],
        )
        self.manager_identity = made["identity"]

    def start_manager(self) -> None:
        manager = self["manager"]
        server = Server(
            "manager",
            [
                *command(manager.home, "--passphrase-fd", "{fd}"),
                "manager",
                "run",
                "--folder",
                str(manager.folder / "state"),
            ],
            manager.folder / "log",
            manager.passphrase,
        )
        self.servers["manager"] = server
        server.wait_for(event="ready")

    # --- machines ---

    def start_tpm(self) -> None:
        """A machine with a software TPM, in a process of its own."""
        folder = self["gpu-cloud"].folder / "trainer-machine"
        server = Server(
            "trainer's TPM",
            [sys.executable, "-m", "perunml.testing.machine", str(folder), *map(str, MEASURED)],
            self["gpu-cloud"].folder / "tpm.log",
        )
        self.servers["tpm"] = server
        self.tpm = server.wait_for(tcti=...)

    def machine_flags(self, host: str) -> list[str]:
        if host == "trainer":
            issuer = self.tpm["roots"][0]
            logs = [
                "--ima-log",
                self.tpm["ima_log"],
                "--event-log",
                self.tpm["event_log"],
                "--cmdline",
                self.tpm["cmdline"],
            ]
            return ["--tcti", self.tpm["tcti"], *logs, "--ek-chain", issuer]
        return ["--simulated-machine"]

    def start_host(self, host: str) -> None:
        cloud = self["gpu-cloud"]
        extra = ["--services-listen", "127.0.0.1:0"] if host == "inference" else []
        server = Server(
            f"{host}'s agent",
            [
                *command(cloud.home, "--passphrase-fd", "{fd}"),
                "host",
                "run",
                "--folder",
                str(cloud.folder / host),
                *self.machine_flags(host),
                *extra,
            ],
            cloud.folder / f"{host}.log",
            cloud.passphrase,
        )
        self.servers[host] = server
        server.wait_for(event="ready")

    # --- small files ---

    def write(self, party: str, name: str, text: str) -> Path:
        path = self[party].folder / name
        path.write_text(text)
        return path

    def write_json(self, party: str, name: str, value: Any) -> Path:
        return self.write(party, name, json.dumps(value))

    def manager_profile(self, party: str) -> Path:
        """What the parties agreed a manager must be; it reached each of them by another way than the manager's URL."""
        return self.write(party, "manager-profile.yaml", MANAGER_PROFILE.format(identity=self.manager_identity))


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


__all__ = ["PARTIES", "StoryError", "World"]
