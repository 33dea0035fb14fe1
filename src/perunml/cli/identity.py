"""`perunml id`: make and show this party's identity."""

from __future__ import annotations

from typing import Any

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


@command.command("rotate")
@click.pass_obj
def rotate(settings: Settings) -> None:
    """Make the keys that shall replace this party's, beside them; a second time, show them again. The operator of each manager admits the new key (`perunml manager admit`), each
    agreement gets a version that names it (`perunml agreement rotate-key NAME --member MEMBER`), and when those are in force, `perunml id switch` uses it. Nothing is
    sealed anew."""
    with settings.client() as client:
        made = client.rotate_identity(settings.passphrase())
    _show(settings, made.public.as_json())


@command.command("switch")
@click.option(
    "--while-agreements-may-name-the-former-key",
    "unasked",
    is_flag=True,
    help="Ask no manager first. Agreements that name the former key alone shut this party out until they name the new one.",
)
@click.pass_obj
def switch(settings: Settings, unasked: bool) -> None:
    """Use the keys that `id rotate` made, from now on. The former ones stay, sealed like these, for what was sealed to them."""
    with settings.client() as client:
        made = client.switch_identity(settings.passphrase(), ask=not unasked)
    _show(settings, made.public.as_json())


@command.command("forget")
@click.argument("key")
@click.option(
    "--while-agreements-may-still-need-it",
    "unasked",
    is_flag=True,
    help="Ask no manager first. What agreements in force seal to the key that goes with it, nobody opens any more.",
)
@click.pass_obj
def forget(settings: Settings, key: str, unasked: bool) -> None:
    """Forget the private halves of KEY, a former key of this party, for good. Assets that it sealed stay in use where they are, and cannot be pushed to another manager any more."""
    with settings.client() as client:
        made = client.forget_key(settings.passphrase(), key, ask=not unasked)
    _show(settings, made.public.as_json())


def _show(settings: Settings, public: dict[str, Any]) -> None:
    rows = [("name", public["name"]), ("identity", public["identity"]), ("receive", public["receive"])]
    if coming := public.get("next"):
        rows += [("next identity", coming["identity"]), ("next receive", coming["receive"])]
    rows += [("former", f"{it['identity']}{'' if it['kept'] else ' (forgotten)'}") for it in public.get("former", ())]
    settings.voice.answer(public, table(rows))
