"""`perunml trust`: verify a manager's evidence against a profile, and pin it."""

from __future__ import annotations

from pathlib import Path

import click

from perunml.cli.settings import Command, Settings
from perunml.cli.voice import table


@click.command(cls=Command)
@click.argument("url")
@click.option(
    "--profile",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="What the manager must prove: a ManagerProfile, or an Agreement, from your own side; never from the URL.",
)
@click.option("--dry-run", is_flag=True, help="Verify, and pin nothing.")
@click.pass_obj
def command(settings: Settings, url: str, profile: Path, dry_run: bool) -> None:
    """Ask the manager at URL (https://host:port) for fresh evidence over its keys, judge it by a profile, and pin the keys.

    Nothing but a nonce is sent. Needs no passphrase.
    """
    from perunml.client.profile import ManagerProfile
    from perunml.client.trust import trust, trust_and_pin

    wanted = ManagerProfile.load(profile.read_bytes())
    pin = trust(url, wanted) if dry_run else trust_and_pin(settings.home, url, wanted)
    rows = [
        ("verified" if dry_run else "pinned", pin.url),
        ("identity", pin.identity),
        ("profile", f"{pin.profile} (proves nothing: for trying out only)" if pin.simulated else pin.profile),
        ("machine", pin.machine),
        ("tls key", pin.tls),
    ]
    settings.voice.answer(pin.model_dump(mode="json"), table(rows))
