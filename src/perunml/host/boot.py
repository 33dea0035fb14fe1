"""A machine's settings, for a host that nobody logs in to: what its operator says, and no more than an operator may say.

A folder, the operator's disk, holds `host.yaml`, the pinned manager (`pin.json`, as `perunml trust` made it), and perhaps
`ek-chain/`, certificates between the TPM's EK and its vendor's root:

    apiVersion: perunml/v1
    kind: Host
    operator: ed25519:…            # who may enrol this machine, over the network
    enrol_listen: 0.0.0.0:7440
    services_listen: 0.0.0.0:7450  # optional: take services, and let them listen here
    metrics_listen: 0.0.0.0:7460   # optional
    traces_to: https://…           # optional
    unpack_at_most: 8GiB           # optional
    attester: [tpm]                # optional: tpm, tdx, snp, sgx, azure, gpu
    binder: tpm-key                # optional

There is no way here to name a program, a device or a log: with the right words an operator would run what nothing measured.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from perunml.api.base import Message
from perunml.api.pin import Pin
from perunml.api.settings import files_of, read_beside, read_settings
from perunml.host.agent import Agent
from perunml.host.codes import NOT_ENROLLED
from perunml.host.enrol import SimulatedMachine, TeeMachine, TpmMachine
from perunml.host.progress import Listener
from perunml.host.reception import Enrolling, Reception
from perunml.wire.errors import UsageError
from perunml.wire.identity import PublicKey
from perunml.wire.quantities import parse_size

SETTINGS, PIN, CHAIN, STATE = "host.yaml", "pin.json", "ek-chain", "agent"
"""Names in the folder; the last is the agent's own folder."""
COMMAND = "perunml host boot --help"


class _File(Message):
    apiVersion: Literal["perunml/v1"]
    kind: Literal["Host"]
    operator: str
    enrol_listen: str = "0.0.0.0:7440"
    services_listen: str = ""
    metrics_listen: str = ""
    traces_to: str = ""
    unpack_at_most: str = ""
    attester: list[Literal["tpm", "tdx", "snp", "sgx", "azure", "gpu"]] = Field(default=["tpm"], min_length=1)
    binder: Literal["", "tpm-key", "pcr"] = ""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What `host.yaml` says, read; `unpack_at_most` in bytes, -1: as memory allows."""

    folder: Path
    pin: Pin
    operator: PublicKey
    enrol_listen: str
    services_listen: str
    metrics_listen: str
    traces_to: str
    unpack_at_most: int
    attester: tuple[str, ...]
    binder: str
    ek_chain: tuple[Path, ...]

    @property
    def state(self) -> Path:
        """The agent's own folder."""
        return self.folder / STATE

    @classmethod
    def read(cls, folder: Path) -> HostSettings:
        """Raises `UsageError` (settings_odd, malformed)."""
        found = read_settings(folder / SETTINGS, _File, COMMAND)
        pin = Pin.from_file(read_beside(folder / PIN, "perunml trust"))
        chain = files_of(folder / CHAIN, COMMAND)
        return cls(
            folder, pin, PublicKey(found.operator), found.enrol_listen, found.services_listen, found.metrics_listen,
            found.traces_to, parse_size(found.unpack_at_most) if found.unpack_at_most else -1, tuple(found.attester),
            found.binder, chain,
        )  # fmt: skip


def serve(
    said: HostSettings,
    attester: SimulatedMachine | TeeMachine | TpmMachine,
    on_event: Listener,
    stopped: Callable[[Callable[[], None]], None],
) -> None:
    """Run the agent, and the reception beside it; where no certificate holds, say `waits` until the operator brought one. Works until
    what was handed to `stopped` is called. Raises `UsageError` (enrolment_address, host_unfit, agent_busy)."""
    brought, over = threading.Event(), threading.Event()
    reception = Reception(
        Enrolling(said.pin, attester, said.state, on_enrolled=lambda _: brought.set()), said.operator, said.enrol_listen
    )
    agent = Agent(
        said.state, said.pin, attester, services_listen=said.services_listen, metrics_listen=said.metrics_listen,
        traces_to=said.traces_to, on_event=on_event, unpack_at_most=said.unpack_at_most,
    )  # fmt: skip

    def stop() -> None:
        over.set()
        brought.set()
        agent.stop()

    stopped(stop)
    reception.start()
    try:
        while not over.is_set():
            brought.clear()
            try:
                agent.run_forever()
            except UsageError as exc:
                if exc.code != NOT_ENROLLED.code:
                    raise
                on_event({"event": "waits", "machine": attester.machine, "port": reception.port})
                brought.wait()
    finally:
        reception.stop()
