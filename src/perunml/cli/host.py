"""`perunml host`: enrol, run and examine a machine that runs jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from perunml.cli.manager import say_event
from perunml.cli.settings import Settings, dry_run_option, group, manager_option
from perunml.cli.voice import table

if TYPE_CHECKING:
    from perunml.api.pin import Pin
    from perunml.attesters.doctor import Examination

command = group("A machine that runs jobs: its agent proves the machine's state and asks for keys.")
F = TypeVar("F", bound=Callable[..., None])
existing_file = click.Path(path_type=Path, exists=True, dir_okay=False)


def machine_options(function: F) -> F:
    """What says which machine this is, the same for `enrol` and `run`."""
    for option in reversed(
        (
            click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="The agent's own folder."),
            click.option("--pin", "pin_file", type=existing_file,
                         help="The pinned manager's file, as `trust` made it [default: this home's]."),
            manager_option,
            click.option("--attester", multiple=True, type=click.Choice(["auto", "tpm", "tdx", "snp", "sgx", "azure", "gpu"]),
                         help="What proves this machine; again for each (--attester tdx --attester gpu). auto: whatever is there."),
            click.option("--binder", type=click.Choice(["tpm-key", "pcr"]),
                         help="How TPM and TEE are shown to be of one machine, where an agreement asks for it."),
            click.option("--tcti", metavar="STRING",
                         help="The TPM: device:/dev/tpmrm0, or a software TPM's swtpm:path=… ."),
            click.option("--ima-log", type=click.Path(path_type=Path, dir_okay=False),
                         help="Where the IMA log is read, binary [default: the kernel's]."),
            click.option("--event-log", type=click.Path(path_type=Path, dir_okay=False),
                         help="Where the boot log is read; /dev/null sends none [default: the kernel's]."),
            click.option("--cmdline", type=click.Path(path_type=Path, dir_okay=False),
                         help="Where the kernel's command line is read [default: /proc/cmdline]."),
            click.option("--ek-chain", multiple=True, type=existing_file,
                         help="A certificate between the EK's and its vendor's root; again for each."),
            click.option("--simulated-machine", is_flag=True,
                         help="Neither TPM nor TEE: a bare key in the folder. Proves nothing, and everything says so."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


@command.command("enrol")
@machine_options
@click.option(
    "--name", required=True, help="What the operator calls the machine; its name to others is its EK's digest."
)
@click.option(
    "--cleared",
    is_flag=True,
    help="The TPM was cleared, or has another attestation key: owners must approve agreements anew.",
)
@click.option(
    "--revocations",
    multiple=True,
    type=existing_file,
    help="A revocation list (DER) of the EK's issuers; again for each.",
)
@click.option("--at", metavar="HOST:PORT",
              help="The machine is elsewhere and waits there for its operator (`host boot`): no --folder, nothing of this machine.")  # fmt: skip
@click.option("--ak-certificate", "ak_certificates", multiple=True, type=existing_file,
              help="A cloud's certificate (DER) for the attestation key, then its chain's; again for each.")  # fmt: skip
@dry_run_option
@click.pass_obj
def enrol(
    settings: Settings,
    /,
    folder: Path | None,
    pin_file: Path | None,
    manager: str,
    name: str,
    at: str | None,
    dry_run: bool,
    cleared: bool,
    revocations: tuple[Path, ...],
    ak_certificates: tuple[Path, ...],
    **machine: Any,
) -> None:
    """Prove to the manager which machine this is, signed by this home's identity as its operator. Gives no right to
    anything: agreements name machines.

    With `--dry-run` the TPM is opened, its EK certificate is read and the folder is looked at, and what would be sent is
    shown; the manager hears nothing.
    """
    from perunml import operators

    if at is not None and (folder or pin_file or any(machine.values())):
        raise click.UsageError(
            "--at enrols another machine, by that one's own settings: leave out what describes this one."
        )
    if at is None:
        _check_machine(machine, folder)
    with settings.client(manager=manager, dry_run=dry_run) as client:
        if at is not None:
            own, *chain = [path.read_bytes() for path in ak_certificates] or [b""]
            lists = [path.read_bytes() for path in revocations]
            done = client.enrol_host(at, name, cleared=cleared, revocations=lists, ak_certificate=own, ak_chain=chain)
        else:
            assert folder is not None
            done = operators.enrol(
                client,
                folder,
                name,
                pin=_pin(settings, pin_file, manager),
                cleared=cleared,
                revocations=revocations,
                ak_certificates=ak_certificates,
                **machine,
            )
    value = {"machine": done.machine, "name": name, "simulated": done.simulated, "expires": done.expires}
    rows = [
        ("machine", done.machine),
        ("name", name),
        ("simulated", "yes: what it proves holds for trying out only" if done.simulated else "no"),
        ("certificate", f"until {done.expires}"),
    ]
    settings.voice.answer(value, table(rows))


@command.command("run")
@machine_options
@click.option("--services-listen", default="", metavar="HOST:PORT",
              help="Take services too, and let them listen here (port 0: any) [default: take none].")  # fmt: skip
@click.option("--metrics-listen", default="", metavar="HOST:PORT",
              help="Let services show counts, sizes and times of their requests here, at /metrics, for Prometheus.")  # fmt: skip
@click.option("--traces-to", default="", metavar="URL",
              help="Let services send the same as spans to this OpenTelemetry collector (OTLP over HTTP).")  # fmt: skip
@click.option("--unpack-at-most", default="", metavar="SIZE",
              help="Decrypt inputs up to this size (8GiB) into memory, mount larger ones [default: half of what is free].")  # fmt: skip
@click.pass_obj
def run(
    settings: Settings,
    /,
    folder: Path | None,
    pin_file: Path | None,
    manager: str,
    services_listen: str,
    metrics_listen: str,
    traces_to: str,
    unpack_at_most: str,
    **machine: Any,
) -> None:
    """Run the agent until it is stopped: take jobs, prove the machine's state, run them in the sandbox. With `-o json`
    one JSON object a line. Needs no passphrase."""
    import signal

    from perunml import operators
    from perunml.wire.quantities import parse_size

    def report(event: dict[str, Any]) -> None:
        say_event(settings, event, event_line(event))

    pin = _pin(settings, pin_file, manager)
    _check_machine(machine, folder)
    assert folder is not None
    agent = operators.agent(
        pin, folder, services_listen=services_listen, metrics_listen=metrics_listen, traces_to=traces_to, unpack_at_most=parse_size(unpack_at_most) if unpack_at_most else None,
        on_event=report, **machine,
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: agent.stop())
    agent.run_forever()


@command.command("boot")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.pass_obj
def boot(settings: Settings, folder: Path) -> None:
    """Be the one service of a machine that nobody logs in to: run the agent by the settings in FOLDER, and wait there to be
    enrolled over the network (`host enrol --at`).

    FOLDER holds `host.yaml` (apiVersion, kind: Host, operator: the key that may enrol this machine, and, if wanted,
    enrol_listen, services_listen, metrics_listen, traces_to, unpack_at_most, attester, binder), `pin.json` (the pinned
    manager, as `perunml trust` makes it) and, if the TPM wants them, certificates in `ek-chain/`.
    """
    import signal

    from perunml import operators
    from perunml.host.boot import HostSettings, serve

    def report(event: dict[str, Any]) -> None:
        say_event(settings, event, event_line(event))

    def stopped(stop: Callable[[], None]) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: stop())

    said = HostSettings.read(folder)
    said.state.mkdir(mode=0o700, exist_ok=True)
    machine = operators.machine(said.state, attester=said.attester, binder=said.binder, ek_chain=said.ek_chain)
    serve(said, machine, on_event=report, stopped=stopped)


@command.command("boot-log")
@click.option(
    "--at", required=True, metavar="HOST:PORT", help="Where the machine waits for its operator (`host boot`)."
)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file that is written.")
@click.pass_obj
def boot_log(settings: Settings, at: str, out: Path) -> None:
    """As its operator, fetch the boot log of a machine that nobody logs in to, for `image golden --event-log`. It is the machine's own
    word: use that of a machine which you trust, and give every other its values."""
    from perunml.cli.baseline import write_new

    with settings.client() as client:
        log = client.host_boot_log(at)
    write_new(out, log)
    settings.voice.answer({"file": str(out), "size": len(log)}, table([("file", out), ("size", f"{len(log)} bytes")]))


@command.command("measure-key")
@click.option(
    "--folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="The agent's own folder."
)
@click.option("--tcti", metavar="STRING", help="The TPM [default: device:/dev/tpmrm0].")
@click.pass_obj
def measure_key(settings: Settings, folder: Path, tcti: str | None) -> None:
    """While a TEE boots, before anything else runs in it: show a key of this TEE alone in the TPM's PCR 15, for
    `--binder pcr`. Refused where PCR 15 shows something else; again in the same boot it changes nothing."""
    from perunml import operators

    key = operators.measure_key(folder, tcti=tcti)
    settings.voice.answer({"pcr": 15, "key": key}, table([("pcr", 15), ("key", key)]))


@command.command("doctor")
@click.pass_obj
def doctor(settings: Settings) -> None:
    """Look at this machine: what fits a job, what it can prove by each root of trust (TPM, IMA, TDX, SEV-SNP, SGX, NVIDIA's
    confidential mode, a cloud's vTPM), and which profiles it could meet. Says what is missing, and the one cure for each."""
    from perunml import operators

    found = operators.doctor()
    settings.voice.answer(found.as_json(), examination_lines(found))


def examination_lines(found: Examination) -> list[str]:
    """What a machine was found to be: a line for each finding, root of trust and profile."""

    def of(need: str) -> list[tuple[str, object]]:
        return [
            (each.name, f"{'well' if each.ok else 'NOT WELL'}: {each.seen}" + (f"; {each.fix}" if each.fix else ""))
            for each in found.findings
            if each.need == need
        ]

    roots: list[tuple[str, object]] = []
    for root in found.roots:
        lacks = f"no: {root.seen}; missing: {root.missing}; {root.fix}"
        roots.append((root.name, f"yes: {root.seen}" if root.proves else lacks))
    profiles: list[tuple[str, object]] = []
    for profile in found.profiles:
        by = ", ".join(profile.by) or "a bare key, for trying out only"
        profiles.append((profile.name, f"yes: {by}" if profile.possible else f"no: {profile.fix}"))
    blocks = {
        "For any job": of("job"),
        "For the profile measured": of("measured"),
        "What this machine can prove": roots,
        "Profiles that it could meet, as far as can be seen from here": profiles,
    }
    lines = [line for title, rows in blocks.items() for line in ("", title, *table(rows))]
    return lines[1:]


def event_line(event: dict[str, Any]) -> str:
    """One of the agent's events as a line: the event, then what it is about; `simulated` at the end."""
    rest = {name: value for name, value in event.items() if name not in ("event", "simulated", "reasons")}
    parts = [f"{event['event']:<10}", *(f"{name} {value}" for name, value in rest.items())]
    parts += [f"{reason.get('code')}: {reason.get('message')}" for reason in event.get("reasons", [])]
    return "  ".join(parts) + ("  (simulated)" if event.get("simulated") else "")


def _pin(settings: Settings, pin_file: Path | None, manager: str) -> Pin:
    from perunml.api.pin import Pin

    return Pin.from_file(pin_file.read_bytes()) if pin_file else settings.home.pin(manager)


def _check_machine(machine: dict[str, Any], folder: Path | None) -> None:
    from perunml import operators

    if folder is None:
        raise click.UsageError("Missing option '--folder'.")
    machine["binder"] = machine["binder"] or ""
    try:
        operators.machine_kinds(machine["tcti"], machine["attester"], machine["simulated_machine"], machine["binder"])
    except ValueError as exc:
        said = "Say which machine this is: --attester KIND or --tcti STRING, or --simulated-machine."
        raise click.UsageError(f"{said} ({exc})") from None


@command.command("explain")
@click.argument("name")
@manager_option
@click.pass_obj
def explain(settings: Settings, name: str, manager: str) -> None:
    """Say why the host NAME (its operator's name for it, or its machine's id) was refused last, under each agreement, and the
    smallest change that would admit it. Only its operator and the parties of the agreement are told."""
    from perunml.cli.voice import four_parts
    from perunml.evidence import mend
    from perunml.wire.rules import Reason

    with settings.client(manager=manager) as client:
        hosts = client.explain(name)
    value, lines = [], []
    for host in hosts:
        rows: list[tuple[str, object]] = [("host", f"{host.name}, {host.machine}")]
        if host.simulated:
            rows.append(("simulated", "yes: what it proves holds for trying out only"))
        lines += table(rows if host.refusals else [*rows, ("refused", "never, under an agreement of this party")])
        told = []
        for refusal in host.refusals:
            reasons = [Reason.from_json(reason) for reason in refusal.reasons]
            found = mend.mends(reasons)
            added = mend.lines(found)
            told.append(
                {
                    **refusal.model_dump(mode="json"),
                    "reasons": [reason.as_json() for reason in reasons],
                    "changes": [change.as_json() for change in found],
                    "baseline": added,
                }
            )
            lines += ["", f"{refusal.time}, {refusal.purpose} of run {refusal.run} under {refusal.agreement}:"]
            lines += [line for reason in reasons for line in four_parts(reason)]
        value.append({**host.model_dump(mode="json"), "refusals": told})
    settings.voice.answer({"hosts": value}, lines)


from perunml.cli import host_install  # noqa: E402, F401 - below what it uses of this module
