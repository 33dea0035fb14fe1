"""An engine in a sandbox of its own, the same in which trainings run: no network, no files but the model, no keys.

A model is somebody else's program. `archive` keeps the known ways to act out of it; this keeps the unknown ones in.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import perunml
from perunml.host import contract
from perunml.host.codes import MEMORY_CAN_SWAP
from perunml.host.limits import Cgroup
from perunml.host.memory import PrivateMemory, swap_is_on
from perunml.host.sandbox import Sandbox, View, job_user, show_interpreter
from perunml.serving.codes import ENGINE_GONE, ENGINE_UNKNOWN, INFERENCE_FAILED, INPUTS_REFUSED, MODEL_REFUSED
from perunml.serving.forms import ModelForm, read_forms
from perunml.serving.pipe import listed, receive, send, unlisted
from perunml.serving.tensors import Tensor
from perunml.wire.canonical import canonical
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.rules import Reason

T = TypeVar("T")
START_SECONDS = 120.0
"""Importing PyTorch on a busy machine, and loading a large model."""
PREDICT_SECONDS = 60.0
SCRATCH = 256 << 20
"""Bytes of the engine's /tmp and /dev/shm, each; memory, taken only as it is used."""
SOCKET = "engine.sock"
MODEL, CODE = "/in/model", "/in/code"
"""Where the engine's process finds what it runs."""
MAY_SAY = {rule.code: rule for rule in (ENGINE_UNKNOWN, MODEL_REFUSED, INPUTS_REFUSED, INFERENCE_FAILED)}
"""All that an engine's process may say; anything else is its failure."""


class ConfinedProcess:
    """An engine's process. `start` and `tend` from the runner's main thread, which bubblewrap lives as long as; what subclasses ask of it, from any. `model` lies in a memory mount, readable for the job's
    user."""

    def __init__(
        self,
        engine: str,
        model: Path,
        memory: PrivateMemory,
        *,
        program: tuple[Path, str] | None = None,
        devices: Mapping[str, Path] | None = None,
        cgroup: Callable[[], Cgroup | None] = lambda: None,
        swap_allowed: bool,
    ) -> None:
        """`program` is the folder of a model's code and the name of its entry there; `devices` GPUs' nodes by their paths in the sandbox; `cgroup` makes one for each start, where the machine can;
        `swap_allowed` is for simulated machines."""
        user = job_user()
        self._engine = engine
        self._make_cgroup = cgroup
        self._swap_allowed = swap_allowed
        self._out = memory.add("out", 1 << 20, owner=user)
        self._view = View(
            code=memory.show("code", Path(perunml.__file__).resolve().parents[1]),
            inputs={MODEL: model, **({CODE: program[0]} if program else {})},
            out=self._out,
            tmp=memory.add("tmp", SCRATCH, owner=user, executable=True),
            shm=memory.add("shm", SCRATCH, owner=user),
            parameters=canonical({}),
            prefixes=show_interpreter(memory),
            devices=devices or {},
        )
        self._entry = [f"{CODE}/{program[1]}"] if program else []
        self.on_start: Callable[[], None] = lambda: None
        self._sandbox: Sandbox | None = None
        self._link: socket.socket | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Returns when the model is loaded. Raises `IntegrityError` (model_refused), `AgreementRefusal` (engine_unknown),
        `LimitReached` (engine_gone), `UsageError` (memory_can_swap, host_unfit)."""
        cgroup = self._make_cgroup()
        if swap_is_on() and not self._swap_allowed and not (cgroup and cgroup.forbids_swap()):
            raise refuse(
                MEMORY_CAN_SWAP, "swap is on, and no cgroup can keep the engine out of it", command="swapoff -a"
            )
        path = self._out / SOCKET
        path.unlink(missing_ok=True)
        environment = contract.environment({}, {}, threads=contract.thread_count()) | {"PYTHONPATH": contract.CODE}
        command = [
            self._view.python,
            "-m",
            "perunml.serving.worker",
            f"{contract.OUT}/{SOCKET}",
            self._engine,
            MODEL,
            *self._entry,
        ]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            os.chown(path, job_user(), job_user())
            listener.listen(1)
            listener.settimeout(START_SECONDS)
            self._sandbox = Sandbox(self._view, command, environment, file_size=SCRATCH, cgroup=cgroup)
            try:
                link, _ = listener.accept()
                link.settimeout(START_SECONDS)
                self._described(receive(link)[0])
            except (OSError, PerunError) as exc:
                self.close()
                if isinstance(exc, PerunError):
                    raise
                raise refuse(ENGINE_GONE, "the engine's process does not come up") from None
        link.settimeout(PREDICT_SECONDS)
        with self._lock:
            self._link = link
        self.on_start()
        self._begun(link)

    def tend(self) -> None:
        """Start the engine anew when its process is gone. Raises as `start` does."""
        if self._link is None:
            self.close()
            self.start()

    def _described(self, told: Any) -> None:
        """In subclasses: what the process says once its model is loaded. Raises its refusal."""
        raise refusal_told(told)

    def _begun(self, link: socket.socket) -> None:
        """In subclasses: the process is there, and asked by `link`."""

    def close(self) -> None:
        """End the process and all in it."""
        with self._lock:
            self._drop()
        if self._sandbox is not None:
            with contextlib.suppress(OSError):
                self._sandbox.__exit__(None, None, None)
            self._sandbox = None

    def _drop(self) -> None:
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.shutdown(socket.SHUT_RDWR)  # wakes whoever reads from it
            self._link.close()
            self._link = None


class ConfinedEngine(ConfinedProcess):
    """An `Engine` of tensors: one request is computed at a time, the others wait."""

    _forms = ModelForm("", (), ())

    def forms(self) -> ModelForm:
        return self._forms

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Raises what an engine does, and `LimitReached` (engine_gone), after which `tend` is due."""
        said, parts = listed(inputs)
        return self._ask({"tensors": said}, parts, lambda told, data: unlisted(_answer(told, "tensors", list), data))

    def _ask(self, asked: Any, parts: Sequence[bytes | memoryview], read: Callable[[Any, memoryview], T]) -> T:
        with self._lock:
            if self._link is None:
                raise refuse(ENGINE_GONE, "the engine's process is being started anew")
            try:
                send(self._link, asked, parts)
                try:
                    return read(*receive(self._link))
                except (ValueError, TypeError, KeyError):
                    raise refusal_told(None) from None
            except PerunError as exc:
                if exc.code not in MAY_SAY:
                    self._drop()
                raise

    def _described(self, told: Any) -> None:
        try:
            if isinstance(told, dict) and set(told) == {"forms"}:
                self._forms = read_forms(told["forms"])
                return
        except (ValueError, TypeError, KeyError, AttributeError):
            raise refusal_told(None) from None
        raise refusal_told(told)


def _answer(told: Any, name: str, kind: type) -> Any:
    """The member `name` of what the engine's process said, or the refusal it may make."""
    if isinstance(told, dict) and set(told) == {name} and isinstance(told[name], kind):
        return told[name]
    raise refusal_told(told)


def refusal_told(told: Any) -> PerunError:
    """What the engine's process refuses, as far as it may; anything else is its failure."""
    if isinstance(told, dict) and set(told) == {"refusal"} and isinstance(told["refusal"], dict):
        said = Reason.from_json(told["refusal"])
        if rule := MAY_SAY.get(said.code):
            return error([Reason(rule, said.message, said.expected, said.seen)])
    return refuse(ENGINE_GONE, "the engine's process answers what no engine does")
