"""`perunml manager`: set up and run a manager; admit parties."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from perunml.cli.settings import Settings, group
from perunml.cli.voice import table

command = group("The trusted service that keeps agreements and keys, verifies evidence and releases keys.")
folder_option = click.option(
    "--folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="The manager's own folder."
)
HTTPS = 443
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
@click.option("--demand-revocations", is_flag=True,
              help="Refuse a TPM whose issuers have no revocation list in force (the host's, or yours in the folder).")  # fmt: skip
@click.pass_obj
def init(
    settings: Settings,
    folder: Path,
    url: str,
    vendor_roots: tuple[Path, ...],
    simulated_ek_roots: tuple[Path, ...],
    demand_revocations: bool,
) -> None:
    """Make a manager in a new folder. Its root key lies there under the passphrase: that is `simulated`, and says so."""
    from perunml import operators

    passphrase = settings.passphrase("New passphrase of the manager", new=True)
    identity = operators.make_manager(
        folder,
        passphrase,
        url=url,
        vendor_roots=vendor_roots,
        simulated_ek_roots=simulated_ek_roots,
        demand_revocations=demand_revocations,
    )
    value = {"folder": str(folder), "url": url, "identity": identity, "simulated": True}
    rows = [
        ("manager", url),
        ("identity", identity),
        ("folder", folder),
        ("profile", "simulated: its root key is protected by a passphrase alone"),
    ]
    settings.voice.answer(value, table(rows))


@command.command("admit")
@folder_option
@click.argument("keys", nargs=-1, required=True)
@click.pass_obj
def admit(settings: Settings, folder: Path, keys: tuple[str, ...]) -> None:
    """Let the identity KEYS (ed25519:… or p384:…) talk to this manager. A right to nothing else; it may be running."""
    from perunml import operators

    operators.admit(folder, keys)
    settings.voice.answer({"admitted": list(keys)}, [f"admitted  {key}" for key in keys])


@command.command("run")
@folder_option
@click.option("--listen", callback=address, metavar="HOST:PORT", help="Listen here [default: the URL's host and port].")
@click.pass_obj
def run(settings: Settings, folder: Path, listen: tuple[str, int] | None) -> None:
    """Run the manager until it is stopped. With `-o json` one JSON object a line."""
    from perunml import operators
    from perunml.manager.config import Config

    Config.load(folder)  # says that this is no manager's folder before it asks for a passphrase
    server = operators.manager(folder, settings.passphrase("Passphrase of the manager"), listen=listen)
    url, identity = server.services.config.url, server.services.keys.identity.public.text
    host = listen[0] if listen else urlsplit(url).hostname

    def ready(bound: tuple[str, int]) -> None:
        where = url if bound[1] == (urlsplit(url).port or HTTPS) else f"https://{host}:{bound[1]}"
        event = {"event": "ready", "url": where, "identity": identity, "simulated": True}
        say_event(settings, event, f"ready     {where} {identity} (simulated)")

    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn lets what is under way end, then raises the signal again: being told to stop is no failure.
        signal.signal(number, lambda number, frame: sys.exit(0))
    server.run(ready)
