"""A program: an agent of a simulated machine, in a process of its own. Arguments: folder, pin file, folder of the machine's key."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from perunml.api.pin import Pin
from perunml.attesters.simulated import SimulatedAttester
from perunml.host.agent import Agent

folder, pin, state = map(Path, sys.argv[1:])
agent = Agent(
    folder, Pin.from_file(pin.read_bytes()), SimulatedAttester(state), poll=0.1,
    on_event=lambda event: print(json.dumps(event), flush=True),
)  # fmt: skip
signal.signal(signal.SIGTERM, lambda number, frame: agent.stop())
agent.run_forever()
