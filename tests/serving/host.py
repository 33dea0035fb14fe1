"""A program: an operator's agent on a simulated machine. Arguments: folder, pin file, operator's home, services' address.

Prints its events, one JSON object per line; ends with its standard input.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from perunml import Client
from perunml.api.pin import Pin
from perunml.attesters.simulated import SimulatedAttester
from perunml.host.agent import Agent
from perunml.host.enrol import enrol


def main() -> None:
    folder, pin_file, home, listen = (sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
    pin = Pin.from_file(Path(pin_file).read_bytes())
    with Client.open(home, b"secret") as operator:
        attester = SimulatedAttester(Path(folder) / "machine")
        enrol(pin, operator.identity.signing, attester, Path(folder) / "agent", "inference")
        print(json.dumps({"event": "machine", "machine": attester.machine}), flush=True)
        agent = Agent(
            Path(folder) / "agent",
            pin,
            attester,
            services_listen=listen,
            metrics_listen="127.0.0.1:0",
            on_event=lambda event: print(json.dumps(event), flush=True),
            poll=0.2,
        )
        threading.Thread(target=lambda: (sys.stdin.read(), agent.stop()), daemon=True).start()
        agent.run_forever()


main()
