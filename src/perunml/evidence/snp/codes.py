"""The rules of AMD's evidence alone; what it shares with other TEEs is in `evidence.tee.codes`."""

from perunml.evidence.codes import evidence_rule

_OTHER = "The operator offers another machine, or the parties agree on another profile: `perunml agreement propose`."
REPORT_UNSUPPORTED = evidence_rule(
    "report_unsupported",
    "The attestation report is of a version, signature algorithm or processor that is not accepted here, or lacks what the "
    "profile asks of newer ones.",
    "The machine's operator updates its firmware, or the parties agree on another profile: `perunml agreement propose`.",
)
CERTIFICATE_MISMATCH = evidence_rule(
    "certificate_mismatch",
    "The certified key is of another chip, product or firmware version than the report tells.",
    "The host's operator sends the certificate of this chip and firmware: `perunml host run`.",
)
KEY_KIND = evidence_rule(
    "signing_key_kind",
    "The report is signed with a kind of key that the profile does not admit: the cloud's (VLEK) instead of the chip's (VCEK).",
    _OTHER,
)
PRODUCT_DENIED = evidence_rule(
    "product_denied", "The processor is of a product line that the profile does not name.", _OTHER
)
VMPL = evidence_rule(
    "vmpl", "The report was asked for at a less privileged level (VMPL) than the profile demands.", _OTHER
)
POLICY_BITS = evidence_rule(
    "guest_policy",
    "The guest was started under a policy that lets the host do more than the profile admits.",
    "The host's operator starts the guest with the agreed policy, or the parties agree on it: `perunml agreement propose`.",
)
