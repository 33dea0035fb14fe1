"""A training: sealed inputs unpacked into memory, the code run in the sandbox, its end put into one of a few classes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from perunml.api.runs import KeyDelivery
from perunml.host import contract, gpus
from perunml.host.clock import boottime
from perunml.host.codes import DELIVERY_MISMATCH, MEMORY_CAN_SWAP, MEMORY_SHORT
from perunml.host.fetch import Fetched
from perunml.host.inputs import PAGE, Inputs, show
from perunml.host.launch import EXIT_UNCONFINED
from perunml.host.limits import Cgroup, make_cgroup
from perunml.host.logs import TAIL, Tail, error_class
from perunml.host.memory import SLACK, PrivateMemory, available_memory, swap_is_on
from perunml.host.outputs import LOG
from perunml.host.progress import Report
from perunml.host.sandbox import Sandbox, View, job_user, show_interpreter
from perunml.ledger.devices import Devices
from perunml.wire.canonical import canonical
from perunml.wire.errors import refuse

SCRATCH_PART = 4
"""The job's /tmp and /dev/shm may each take up to this part (a quarter) of what memory is available."""
MIN_MEMORY = 256 << 20
"""Bytes that a job gets at the least; Python with PyTorch has about 200 MiB before the first tensor."""

OUT_OF_MEMORY, OUT_OF_TIME, INTERNAL = "out_of_memory", "out_of_time", "internal"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended: `error` is "" or one of `api.runs.ERRORS`, `out` the folder with its outputs, `log` the end of what it printed, `devices` the GPUs
    that it was shown."""

    error: str
    out: Path
    log: bytes
    devices: Devices | None


def train(
    delivery: KeyDelivery, fetched: Mapping[str, Fetched], memory: PrivateMemory, report: Report, *, swap_allowed: bool,
    checkpoints: Path | None = None, during: AbstractContextManager[None] | None = None, unpack_at_most: int | None = None,
) -> Ended:  # fmt: skip
    """Run a delivery's code on its inputs, once. Call it from the main thread, which bubblewrap lives as long as. Closes the
    inputs' readers. The job may write `checkpoints`, and `during` is entered while it runs; an input of more than `unpack_at_most` bytes (None: than
    memory allows) is mounted. Raises `PerunError` when the job could not be started or what it read was altered; whatever else the job does is in the `Ended`."""
    if "code" not in fetched or fetched["code"].input.mount != contract.CODE:
        raise refuse(DELIVERY_MISMATCH, "a training comes with its code")
    entry = contract.entry_path(delivery.entry)
    user = job_user()
    with gpus.claim() as claim:
        shown = show(fetched, memory, user, most=unpack_at_most)
        view = replace(_view(delivery, shown, memory, user, claim.nodes), checkpoints=checkpoints)
        if claim.taken:
            report("warning", message="another run has this machine's GPUs: the job sees none")
        group = _confine(delivery, report, swap_allowed)
        environment = contract.environment(
            shown.mounts, delivery.parameters, threads=contract.thread_count(), checkpoints=checkpoints is not None
        )
        size = available_memory() + SLACK
        deadline = boottime() + delivery.wall_seconds
        wanted = [key.max_size for key in delivery.outputs.values() if key.format == LOG]
        said = Tail(max([TAIL, *wanted]), user)
        with Sandbox(
            view, [view.python, entry], environment, file_size=size, cgroup=group, uid=user, output=said.descriptor
        ) as sandbox:  # fmt: skip
            report(
                "running", job=str(delivery.agreement), init=sandbox.init_pid, limits=group.kind if group else "rlimits",
                landlock=sandbox.landlock, gpus=sum(name[-1].isdigit() for name in claim.nodes), views=shown.views,
            )  # fmt: skip
            with shown.watched(sandbox.kill), during or nullcontext():
                status = sandbox.wait(deadline)
            starved = sandbox.out_of_memory()
        shown.close(memory)
    log = said.close()
    error = _class(status, starved, log)
    report("job_ended", error=error)
    return Ended(error, view.out, log, claim.devices)


def _view(delivery: KeyDelivery, shown: Inputs, memory: PrivateMemory, user: int, devices: Mapping[str, Path]) -> View:
    out = memory.add("out", SLACK + sum(key.max_size + PAGE for key in delivery.outputs.values()), owner=user)
    scratch = available_memory() // SCRATCH_PART
    return View(
        code=shown.folders[contract.CODE],
        inputs={where: folder for where, folder in shown.folders.items() if where != contract.CODE},
        out=out,
        tmp=memory.add("tmp", scratch, owner=user, executable=True),
        shm=memory.add("shm", scratch, owner=user),
        parameters=canonical(delivery.parameters),
        prefixes=show_interpreter(memory),
        devices=devices,
    )


def _confine(delivery: KeyDelivery, report: Report, swap_allowed: bool) -> Cgroup | None:
    limit = available_memory() - SLACK
    if limit < MIN_MEMORY:
        raise refuse(MEMORY_SHORT, "too little memory is left for a job", expected=str(MIN_MEMORY), seen=str(limit))
    group = make_cgroup(delivery.run, limit)
    if swap_is_on() and not (group and group.forbids_swap()):
        if not swap_allowed:
            raise refuse(MEMORY_CAN_SWAP, "swap is on, and no cgroup can keep the job out of it", command="swapoff -a")
        report("warning", message="swap is on: this simulated machine may write a job's memory to it")
    return group


def _class(status: int | None, starved: bool, log: bytes) -> str:
    if status == 0:
        return ""
    if status is None:
        return OUT_OF_TIME
    if starved:
        return OUT_OF_MEMORY
    return INTERNAL if status == EXIT_UNCONFINED else error_class(log)
