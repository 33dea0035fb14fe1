"""What the command line costs before it does anything: `perunml --help`, a verb's help, `import perunml`; medians in ms."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

ROUNDS = 15
TARGET_MS = 150.0
"""What the command line costs before it does anything: `perunml --help`, a verb's help, `import perunml`; medians in ms."""
COMMANDS: dict[str, list[str]] = {
    "python_alone_ms": ["-c", "pass"],
    "import_perunml_ms": ["-c", "import perunml"],
    "help_ms": ["-m", "perunml", "--help"],
    "verb_help_ms": ["-m", "perunml", "agreement", "--help"],
}


def run() -> dict[str, Any]:
    """Medians by command in milliseconds, each from its own process, the first round not counted."""
    found = {}
    for name, arguments in COMMANDS.items():
        times = []
        for _ in range(ROUNDS + 1):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times.append((time.perf_counter() - start) * 1000)
        found[name] = round(statistics.median(times[1:]), 1)
    return {"name": "command line", "rounds": ROUNDS, **found, "target_ms": TARGET_MS}


if __name__ == "__main__":
    print(run())
