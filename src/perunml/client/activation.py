"""A manager's TPM, of which its clients know nothing beforehand: whose it is, and that the attestation key is in it.

The EK's certificate leads to a vendor's root; a credential that only the TPM with that EK and that attestation key can open
ties the key to it. Nothing of a TPM's quote is worth anything without both.
"""

from __future__ import annotations

import hmac
import secrets

from perunml.api.trust import Activation, Attestation, ManagerTpm, activation_answer
from perunml.client.asking import Activate
from perunml.client.codes import NOT_ACTIVATED, WRONG_MANAGER
from perunml.evidence.policy import Machine
from perunml.evidence.tpm.chain import Trust
from perunml.evidence.tpm.credential import make_credential
from perunml.evidence.tpm.ek import verify_ek
from perunml.evidence.tpm.keys import check_ak
from perunml.wire.errors import refuse

SECRET_SIZE = 32


def tpm_machine(name: str, tpm: ManagerTpm, trust: Trust, now: int) -> Machine:
    """The machine that the EK's certificate names. Raises `EvidenceRefusal`: what `verify_ek` and `check_ak` refuse, and
    wrong_manager where the manager calls it by another name."""
    identity = verify_ek(tpm.ek_certificate, tpm.ek_chain, tpm.ek_public, trust=trust, now=now)
    check_ak(tpm.ak_public)
    if identity.machine != name:
        raise refuse(
            WRONG_MANAGER, "the machine is not named after its endorsement key", expected=identity.machine, seen=name
        )
    return Machine(name, identity.simulated, ak=tpm.ak_public, ek=tpm.ek_public, tpm=identity.claims())


def check_active(url: str, said: Attestation, tpm: ManagerTpm, activate: Activate) -> None:
    """Raises `EvidenceRefusal` (not_activated)."""
    secret = secrets.token_bytes(SECRET_SIZE)
    credential, encrypted = make_credential(tpm.ek_public, check_ak(tpm.ak_public).name, secret)
    answer, peer = activate(url, Activation(credential=credential, secret=encrypted))
    if peer != said.tls or not hmac.compare_digest(answer.answer, activation_answer(secret, said.identity)):
        raise refuse(
            NOT_ACTIVATED,
            "the TPM that the manager shows does not hold the key that signed its evidence",
            seen=said.machine,
        )
