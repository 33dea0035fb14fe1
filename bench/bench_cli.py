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
    "Python alone": ["-c", "pass"],
    "import perunml": ["-c", "import perunml"],
    "perunml --help": ["-m", "perunml", "--help"],
    "perunml agreement --help": ["-m", "perunml", "agreement", "--help"],
}


def run() -> dict[str, Any]:
    """Medians in milliseconds, each round a process of its own, the first one not counted."""
    results = []
    for name, arguments in COMMANDS.items():
        times = []
        for _ in range(ROUNDS + 1):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times.append((time.perf_counter() - start) * 1000)
        found = {"name": name, "value": round(statistics.median(times[1:]), 1), "unit": "ms", "higher_is_better": False}
        results.append(found | ({"target": TARGET_MS} if name == "perunml --help" else {}))
    return {"title": "The command line, before it does anything", "results": results}


if __name__ == "__main__":
    print(run())
