"""The command `perunml`: which verbs there are, loaded when they are asked for, and how every one of them ends.

`--help` must answer in 150 ms (DESIGN §10), so this file knows each verb's line of help and imports its module on demand.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem

import perunml
from perunml.cli.settings import Command, Group, Settings, common_options
from perunml.cli.voice import Voice, explain

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Parties": {
        "id": ("identity", "Make and show this party's identity."),
        "trust": ("trust", "Verify a manager's evidence against a profile, and pin it."),
        "seal": ("seal", "Seal a folder or file into this party's home; nothing is sent."),
        "push": ("push", "Send a sealed asset, and its key for the manager alone."),
        "document": ("document", "Sign and send a document that agreements name, as a baseline."),
        "image": ("image", "Compute what a machine image will measure when it boots."),
        "baseline": ("baseline", "Make, import, compare and show baselines of machines."),
        "agreement": ("agreement", "Check, review, propose, approve and list agreements."),
        "job": ("job", "Submit runs, watch them, wait for them."),
        "why": ("why", "Say why a job does not run: every reason at once."),
        "recover": ("recover", "Bring what is this party's to a manager that lost it."),
        "recovery": ("recovery", "Keep shares of outputs' keys, and give them to another manager."),
        "asset": ("asset", "Show sealed assets; suspend one at once, or lift that."),
        "condition": ("condition", "Narrow what may be done with an own asset, at once."),
        "output": ("output", "List, approve and pull what runs produced."),
        "model": ("output", "The same for models: `model pull`."),
        "serve": ("serve", "Have an agreement's service run, and wait until it answers."),
        "infer": ("infer", "Ask a served model; the request is sealed to its host."),
        "proxy": ("proxy", "Let plain clients on this machine ask a served model, sealed on the way."),
        "receipt": ("receipt", "Verify a receipt, offline."),
        "ledger": ("ledger", "Verify the manager's ledger since it was last seen."),
        "checker": ("checker", "Sign what a party's own rules allow, and say why not."),
        "audit": ("audit", "Audit what a manager did: export its ledger, verify an export offline."),
        "witness": ("witness", "Cosign the manager's ledger, once or all the time."),
        "evidence": ("evidence", "Judge quotes, boot logs and IMA logs in files, offline."),
    },
    "Operators": {
        "manager": ("manager", "Set up and run a manager; admit parties."),
        "collateral": ("collateral", "Collect what TEEs' and GPUs' vendors sign; show it."),
        "host": ("host", "Enrol, run and examine a machine that runs jobs."),
    },
    "Newcomers": {
        "quickstart": ("quickstart", "The whole story on this machine, in a temporary folder."),
        "completion": ("completion", "Print the shell's completion script."),
    },
}
VERBS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class Root(Group):
    """Knows the verbs by name and line; imports `perunml.cli.<module>` for the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        found = importlib.import_module(f"perunml.cli.{VERBS[cmd_name][0]}").command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, VERBS))
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, (_, line) in verbs.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=line) for name, (_, line) in VERBS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


@click.command(cls=Root, params=common_options())
@click.version_option(perunml.__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Confidential machine learning between parties who do not trust each other.

    Exit codes: 0 ok, 2 usage, 10 refused by agreement, 11 evidence refused, 12 approval pending, 13 suspended or expired,
    14 integrity, 15 limit reached, 16 unreachable, 17 job failed, 18 output held.
    """


def run(argv: Sequence[str]) -> int:
    """The exit code of one command line."""
    settings = Settings()
    try:
        result = cli.main(args=list(argv), prog_name="perunml", standalone_mode=False, obj=settings)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone (`perunml … | head`): nothing more to say, not even at exit.
        sys.stdout = None
        return 0
    except (Exception, KeyboardInterrupt) as exc:
        as_json = settings.output == "json" or _asks_for_json(argv)
        return explain(exc, Voice(as_json))
    return result if isinstance(result, int) else 0


def _asks_for_json(argv: Sequence[str]) -> bool:
    """Whether a command line that was not understood wanted its errors as JSON."""
    pairs = zip(argv, [*argv[1:], ""], strict=True)
    return any(a in ("-ojson", "--output=json") or (a in ("-o", "--output") and b == "json") for a, b in pairs)


__all__ = ["SECTIONS", "VERBS", "Command", "Group", "cli", "run"]
