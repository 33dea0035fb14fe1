"""`perunml id`: make and show this party's identity."""

from __future__ import annotations

import click

from perunml.cli.settings import Settings, group
from perunml.cli.voice import table

command = group("Make and show this party's identity: a key that signs, and one to which others seal.")


@command.command("create")
@click.option("--name", required=True, help="What this party is called here; agreements may call it otherwise.")
@click.option(
    "--algorithm",
    type=click.Choice(["ed25519", "p384"]),
    default="ed25519",
    show_default=True,
    help="The signing key's.",
)
@click.pass_obj
def create(settings: Settings, name: str, algorithm: str) -> None:
    """Make new keys, sealed under a passphrase. Existing ones are never overwritten."""
    from perunml.client.identity import Identity

    made = Identity.create(settings.home, name, settings.passphrase("New passphrase", new=True), algorithm=algorithm)
    _show(settings, made.public.as_json())


@command.command("show")
@click.pass_obj
def show(settings: Settings) -> None:
    """Show the public keys, as agreements name them. Needs no passphrase."""
    from perunml.client.identity import PublicIdentity

    _show(settings, PublicIdentity.load(settings.home).as_json())


def _show(settings: Settings, public: dict[str, str]) -> None:
    rows = [("name", public["name"]), ("identity", public["identity"]), ("receive", public["receive"])]
    settings.voice.answer(public, table(rows))
