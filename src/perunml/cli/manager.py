"""`perunml manager`: set up and run a manager; admit parties."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from perunml.cli.settings import Settings, group
from perunml.cli.voice import table

if TYPE_CHECKING:
    from perunml.manager.backup import Backup
    from perunml.manager.custody import Kind
    from perunml.manager.server import Server

command = group("The trusted service that keeps agreements and keys, verifies evidence and releases keys.")
folder_option = click.option(
    "--folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="The manager's own folder."
)
HTTPS = 443
KEPT = {
    "passphrase": "simulated: protected by a passphrase alone, for development",
    "tpm": "in the TPM, while the machine is in the state that it is in now",
    "tee": "in the TEE, for what runs now",
}
existing_file = click.Path(path_type=Path, exists=True, dir_okay=False)


def address(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """``HOST:PORT`` or ``[IPv6]:PORT`` as a pair."""
    if value is None:
        return None
    try:
        parts = urlsplit(f"//{value}")
        if parts.hostname is None or parts.port is None or parts.path or parts.username:
            raise ValueError
    except ValueError:
        raise click.BadParameter("give HOST:PORT", ctx, param) from None
    return parts.hostname, parts.port


def indices(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """``0,2,4,7`` as a list."""
    if value is None:
        return None
    try:
        return [int(text) for text in value.split(",")]
    except ValueError:
        raise click.BadParameter("give whole numbers with commas between", ctx, param) from None


def worth(custody: str) -> str:
    return "simulated" if custody == "passphrase" else ""


def say_event(settings: Settings, event: dict[str, Any], line: str) -> None:
    """One step of a long-running command: a line of text, or one line of JSON."""
    from perunml.cli.voice import clean

    text = json.dumps(event, ensure_ascii=True, allow_nan=False) if settings.output == "json" else clean(line)
    sys.stdout.write(text + "\n")  # in one write: several threads may speak
    sys.stdout.flush()


@command.command("init")
@folder_option
@click.option("--url", required=True, help="Where parties and hosts will reach it: https://host:port.")
@click.option("--vendor-root", "vendor_roots", multiple=True, type=existing_file,
              help="A TPM vendor's root certificate (PEM or DER) besides those known; again for each.")  # fmt: skip
@click.option("--simulated-ek-root", "simulated_ek_roots", multiple=True, type=existing_file,
              help="A root of software TPMs. Machines under it are simulated, whatever they prove.")  # fmt: skip
@click.option("--simulated-tee-root", "simulated_tee_roots", multiple=True, type=existing_file,
              help="A development root of TEEs or GPUs. Machines under it are simulated, whatever they prove.")  # fmt: skip
@click.option("--collateral-signer", "collateral_signers", multiple=True, metavar="KEY",
              help="An identity key whose signed bundles of vendors' collateral it judges TEEs and GPUs by.")  # fmt: skip
@click.option("--demand-revocations", is_flag=True,
              help="Refuse a TPM whose issuers have no revocation list in force (the host's, or yours in the folder).")  # fmt: skip
@click.option("--custody", type=click.Choice(["passphrase", "tpm", "tee"]), default="passphrase", show_default=True,
              help="Who keeps the root key: a passphrase (for development), the TPM in this state of the machine, the TEE.")  # fmt: skip
@click.option("--count-in-tpm", is_flag=True,
              help="Let a counter of the TPM tell an old copy of the folder, besides the witnesses.")  # fmt: skip
@click.option("--pcrs", callback=indices, metavar="I,J,…",
              help="With --custody tpm: the PCRs that are the machine's state [default: 0-7, 9 and 11].")  # fmt: skip
@click.option("--attester", type=click.Choice(["simulated", "tpm", "tdx", "snp", "sgx"]), default="simulated", show_default=True,
              help="What makes the evidence that the manager shows.")  # fmt: skip
@click.option("--tcti", help="How the TPM is reached [default: device:/dev/tpmrm0].")
@click.option("--ima-log", type=existing_file, help="The TPM's IMA log [default: the kernel's].")
@click.option("--event-log", type=existing_file, help="The TPM's boot log [default: the kernel's].")
@click.option("--cmdline", type=existing_file, help="The kernel's command line [default: the kernel's].")
@click.option("--ek-chain", multiple=True, type=existing_file,
              help="A certificate between the EK's and its vendor's root; again for each.")  # fmt: skip
@click.pass_obj
def init(settings: Settings, /, folder: Path, url: str, custody: Kind, attester: str, **more: Any) -> None:
    """Make a manager in a new folder. A root key under a passphrase, or no attester, is `simulated`, and says so."""
    from perunml import operators

    passphrase = settings.passphrase("New passphrase of the manager", new=True) if custody == "passphrase" else None
    identity = operators.make_manager(folder, passphrase, url=url, custody=custody, attester=attester, **more)
    simulated = "simulated" in (attester, worth(custody))
    value = {"folder": str(folder), "url": url, "identity": identity, "simulated": simulated}
    rows = [
        ("manager", url),
        ("identity", identity),
        ("folder", folder),
        ("attester", "simulated: it proves nothing" if attester == "simulated" else attester),
        ("root key", KEPT[custody]),
    ]
    settings.voice.answer({**value, "attester": attester, "custody": custody}, table(rows))


@command.command("admit")
@folder_option
@click.argument("keys", nargs=-1, required=True)
@click.pass_obj
def admit(settings: Settings, folder: Path, keys: tuple[str, ...]) -> None:
    """Let the identity KEYS (ed25519:… or p384:…) talk to this manager. A right to nothing else; it may be running."""
    from perunml import operators

    operators.admit(folder, keys)
    settings.voice.answer({"admitted": list(keys)}, [f"admitted  {key}" for key in keys])


@command.command("backup")
@folder_option
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def backup(settings: Settings, folder: Path, file: Path) -> None:
    """Copy the whole manager into the new FILE, while it runs. Its keys are sealed in there as they are in the folder."""
    from perunml import operators
    from perunml.cli.progress import progress

    with progress("backing up", silent=settings.voice.as_json) as report:
        found = operators.backup(folder, file, progress=report)
    _copied(settings, found, file)


@command.command("restore")
@folder_option
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_obj
def restore(settings: Settings, folder: Path, file: Path) -> None:
    """Make the new folder what the manager was when the backup FILE was written. Run, it ends every lease, and where agreements name witnesses it
    releases nothing before they have seen no newer ledger."""
    from perunml import operators
    from perunml.cli.progress import progress

    with progress("restoring", silent=settings.voice.as_json) as report:
        found = operators.restore(file, folder, progress=report)
    _copied(settings, found, folder)


@command.command("adopt")
@folder_option
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_obj
def adopt(settings: Settings, folder: Path, file: Path) -> None:
    """Take the ciphertext of outputs that owners claimed here (`perunml recovery give`) out of FILE, a lost manager's backup. It is checked against
    what the run that made it signed; the manager may run meanwhile."""
    from perunml import operators
    from perunml.cli.progress import progress

    with progress("adopting", silent=settings.voice.as_json) as report:
        found = operators.adopt(file, folder, progress=report)
    value = {"outputs": list(found.outputs), "missing": list(found.missing), "bytes": found.bytes}
    rows: list[tuple[str, object]] = [("adopted", asset) for asset in found.outputs]
    rows += [("not in the backup", asset) for asset in found.missing]
    settings.voice.answer(value, table([*rows, ("bytes", found.bytes)]))


def _copied(settings: Settings, found: Backup, where: Path) -> None:
    value = {"to": str(where), "entries": found.size, "root": found.root, "files": found.files, "bytes": found.bytes}
    rows = [("to", where), ("ledger", f"{found.size} entries, root {found.root}")]
    settings.voice.answer(value, table([*rows, ("files", f"{found.files}, {found.bytes} bytes")]))


@command.command("rotate-intake")
@folder_option
@click.option("--tcti", help="How the TPM is reached, where that is not as it was.")
@click.pass_obj
def rotate_intake(settings: Settings, folder: Path, tcti: str | None) -> None:
    """Replace the key to which owners seal their data keys, while the manager does not run. What was brought before stays as it is; owners trust the
    manager anew before they bring more."""
    from perunml import operators

    passphrase = settings.passphrase("Passphrase of the manager") if operators.custody(folder) == "passphrase" else None
    intake, generation = operators.rotate_intake(folder, passphrase, tcti=tcti)
    settings.voice.answer(
        {"intake": intake, "generation": generation}, table([("intake key", intake), ("generation", generation)])
    )


@command.command("run")
@folder_option
@click.option("--listen", callback=address, metavar="HOST:PORT", help="Listen here [default: the URL's host and port].")
@click.option("--tcti", help="How the TPM is reached, where that is not as it was.")
@click.pass_obj
def run(settings: Settings, folder: Path, listen: tuple[str, int] | None, tcti: str | None) -> None:
    """Run the manager until it is stopped. With `-o json` one JSON object a line."""
    from perunml import operators

    custody = operators.custody(folder)  # says that this is no manager's folder before it asks for a passphrase
    passphrase = settings.passphrase("Passphrase of the manager") if custody == "passphrase" else None
    _serve(settings, operators.manager(folder, passphrase, listen=listen, tcti=tcti), listen)


@command.command("boot")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.pass_obj
def boot(settings: Settings, folder: Path) -> None:
    """Be the one service of a machine that nobody logs in to: make the manager on its first boot, run it on each.

    FOLDER holds `manager.yaml` (apiVersion, kind: Manager, url, attester and, if wanted, custody: tpm or tee, listen, admit,
    demand_revocations), certificates in `vendor-roots/`, `simulated-ek-roots/`, `simulated-tee-roots/` and `ek-chain/`, and the
    manager's own folder, `manager/`. There is no passphrase: the TPM or the TEE keeps the root key.
    """
    from perunml import operators
    from perunml.manager.boot import read

    said = read(folder)
    said.prepare()
    _serve(settings, operators.manager(said.state, listen=said.listen), None)


def _serve(settings: Settings, server: Server, listen: tuple[str, int] | None) -> None:
    """Say that it is ready, and serve until told to stop."""
    from perunml import operators

    custody = operators.custody(server.services.config.folder)
    config, identity = server.services.config, server.services.keys.identity.public.text
    host = listen[0] if listen else urlsplit(config.url).hostname
    attester = config.device.kind
    simulated = "simulated" in (attester, worth(custody))

    def ready(bound: tuple[str, int]) -> None:
        where = config.url if bound[1] == (urlsplit(config.url).port or HTTPS) else f"https://{host}:{bound[1]}"
        event = {"event": "ready", "url": where, "identity": identity, "simulated": simulated}
        line = f"ready     {where} {identity} (attester {attester}; root key {KEPT[custody]})"
        say_event(settings, {**event, "attester": attester, "custody": custody}, line)

    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn lets what is under way end, then raises the signal again: being told to stop is no failure.
        signal.signal(number, lambda number, frame: sys.exit(0))
    server.run(ready)


from perunml.cli import manager_join, manager_store  # noqa: E402, F401 - below what it uses of this module
