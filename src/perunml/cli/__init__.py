"""One command, thin: a file per verb. Nothing here imports a room before its verb is asked for."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    import sys

    from perunml.cli.root import run

    sys.exit(run(sys.argv[1:] if argv is None else list(argv)))
