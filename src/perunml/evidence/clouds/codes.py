"""The rules of clouds' virtual TPMs."""

from perunml.evidence.codes import evidence_rule

AK_NOT_VOUCHED = evidence_rule(
    "ak_not_vouched",
    "The TEE's report does not vouch for the virtual TPM's attestation key: the runtime data that it covers are others, or name "
    "another key.",
    "The host's operator collects the report of this very machine (`perunml host run` does), or enrols it again.",
)
