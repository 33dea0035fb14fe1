"""`Client`: all that the command line does, from Python.

from perunml import Client

with Client.open("~/.perunml", passphrase) as client:
    sealed = client.seal("scans/", name="scans", kind="dataset")
    client.push("scans")
    run = client.submit("brain-mri-2027", "train", {"epochs": 10})
    client.wait(run.run)
    client.pull(run.run, "model", "model/")
"""

from __future__ import annotations

from perunml.client.party_assets import Assets
from perunml.client.party_audit import Audits
from perunml.client.party_checker import Checkers
from perunml.client.party_conditions import Conditions
from perunml.client.party_ledger import Ledger
from perunml.client.party_recovery import Recovery
from perunml.client.party_runs import Runs
from perunml.client.party_signing import Signing


class Client(Assets, Runs, Signing, Conditions, Ledger, Audits, Checkers, Recovery):
    """One party: its home folder, its open keys, and one pinned manager. Not thread-safe; use it in ``with``."""
