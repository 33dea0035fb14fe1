"""Runs in a virtual machine, as root, out of memory: plays the agent with the machine's own TPM and Perun's own code.

``release RUN AGREEMENT`` takes a run and keeps the session's keys on the data disk, as a thief of them would; ``renew`` tries to go on
with them; ``release RUN AGREEMENT EVENT-LOG`` sends another boot's log. Prints the refusal's codes, or ``released`` or ``renewed``.
"""

import base64
import json
import sys
from pathlib import Path

from perunml.api.pin import Pin
from perunml.attesters.tpm import TpmAttester
from perunml.evidence.binding import binding
from perunml.host.enrol import membership
from perunml.host.protocol import ManagerLink
from perunml.host.session import Session
from perunml.wire.errors import PerunError
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey

FOLDER = Path("/var/lib/perunml")
KEPT = FOLDER / "stolen.json"
verb, *arguments = sys.argv[1:]
pin = Pin.from_file((FOLDER / "pin.json").read_bytes())
other_log = Path(arguments[2]) if len(arguments) > 2 else None
attester = TpmAttester(
    "device:/dev/tpmrm0", FOLDER / "agent", event_log=other_log, ek_chain=sorted((FOLDER / "ek-chain").iterdir())
)


class Evidence:
    """What a runner asks its agent for, made here."""

    def collect(self, request):
        bound = binding(
            purpose=request.purpose, nonce=request.nonce, role=request.role, session_hpke=request.session_hpke,
            session_tls=request.session_tls, manager=pin.identity, agreement=request.agreement, run=request.run,
            host=attester.machine, payload=request.payload,
        )  # fmt: skip
        return attester.collect(bound).as_json()

    def accepted(self):
        attester.accepted()

    def forget(self):
        attester.forget()

    def lease(self, deadline):
        pass


def keep(session, certificate):
    KEPT.write_text(json.dumps({
        "run": session.run, "key": base64.b64encode(session.signer.secret()).decode(),
        "hpke": base64.b64encode(session._hpke.secret()).decode(), "certificate": certificate,
        "nonce": base64.b64encode(session._nonce).decode(), "challenge": session._challenge.encode().decode(),
    }))  # fmt: skip


try:
    if verb == "release":
        session = Session(pin, arguments[0], attester.machine, Evidence())
        begin = session._begin_lease

        def begin_lease(answer, sent):
            begin(answer, sent)
            keep(session, answer.certificate)

        session._begin_lease = begin_lease
        member = membership(pin, attester.machine, FOLDER / "agent")
        with ManagerLink(pin, (member.certificate, member.key)) as link:
            session.release(link, agreement=arguments[1])
        print("released")
    else:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519

        from perunml.api.runs import Challenge

        kept = json.loads(KEPT.read_text())
        session = Session(pin, kept["run"], attester.machine, Evidence())
        secret = base64.b64decode(kept["key"])
        session.signer = SigningKey.from_secret(secret)
        session._hpke = HpkePrivateKey(base64.b64decode(kept["hpke"]))
        session._nonce = base64.b64decode(kept["nonce"])
        session._challenge = Challenge.decode(kept["challenge"].encode())
        key = ed25519.Ed25519PrivateKey.from_private_bytes(secret).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        session._link = ManagerLink(pin, (kept["certificate"], key))
        session.renew()
        print("renewed")
except PerunError as exc:
    print(json.dumps([reason.as_json() for reason in exc.reasons]))
