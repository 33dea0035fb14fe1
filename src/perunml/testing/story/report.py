"""How the story speaks.

The rules of its voice: one line when a step begins, one when it has ended, with what it proved and its seconds; who does it stands
first; what is refused shows its code; nothing is said that was not checked; a machine without a root of trust is called
simulated wherever it is named.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass
class Report:
    """Prints the story and keeps it for `-o json`."""

    quiet: bool = False
    steps: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._console = Console(file=sys.stderr if self.quiet else sys.stdout, highlight=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        self._say(f"\n[bold]{text}[/bold]")

    def note(self, text: str) -> None:
        self._say(f"    {text}")

    @contextmanager
    def step(self, who: str, doing: str) -> Iterator[Step]:
        """One step: `doing` is said now, what `Step.found` was told is said at the end."""
        began = time.monotonic()
        step = Step()
        try:
            yield step
        except BaseException:
            self._say(f"  [red]✗[/red] [cyan]{who:<11}[/cyan] {doing}")
            raise
        took = time.monotonic() - began
        self.steps.append({"who": who, "step": doing, "found": step.result, "seconds": round(took, 2)})
        tail = f" → {step.result}" if step.result else ""
        self._say(f"  [green]✓[/green] [cyan]{who:<11}[/cyan] {doing}{tail} [dim]({took:.1f} s)[/dim]")

    def refused(self, who: str, attempt: str, code: str, message: str) -> None:
        self.steps.append({"who": who, "attempt": attempt, "refused": code, "message": message})
        self._say(f"  [yellow]✋[/yellow] [cyan]{who:<11}[/cyan] {attempt} → [bold]{code}[/bold]: {message}")

    def table(self, rows: list[tuple[str, str, str, str]]) -> None:
        """The last page: party, what it put in, what it got, what it never saw."""
        table = Table(show_lines=True, title="What each party put in, got, and never saw")
        for column in ("party", "put in", "got", "never saw"):
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        if not self.quiet:
            self._console.print()
            self._console.print(table)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def _say(self, text: str) -> None:
        if not self.quiet:
            self._console.print(text)


@dataclass
class Step:
    result: str = ""

    def found(self, text: str) -> None:
        self.result = text
