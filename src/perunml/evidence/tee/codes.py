"""The rules that several kinds of evidence share: Intel's and AMD's TEEs, NVIDIA's GPUs, clouds' vTPMs."""

from perunml.evidence.codes import evidence_rule

_COLLATERAL = "The manager's operator collects newer collateral and puts it into the manager's folder: `perunml collateral bundle`."
_OTHER_TEE = (
    "The operator offers a machine in the agreed state, or the parties agree on another: `perunml agreement propose`."
)
CERTIFICATE_CHAIN = evidence_rule(
    "certificate_chain",
    "A certificate chain does not lead to the vendor's root that is pinned here (or to a development root given by name), "
    "or a certificate in it may not sign what it signs.",
    "The host's operator sends the vendor's certificates, or the manager's adds them: `perunml collateral bundle`.",
)
CERTIFICATE_EXPIRED = evidence_rule(
    "certificate_expired",
    "A certificate of the chain is not valid at this time.",
    _COLLATERAL,
)
CERTIFICATE_REVOKED = evidence_rule(
    "certificate_revoked",
    "Its issuer revoked a certificate of the chain, or put it on hold.",
    "The operator offers another machine: `perunml host enrol` there.",
)
REVOCATION_MISSING = evidence_rule(
    "revocation_missing",
    "No revocation list or OCSP response in force tells of a certificate of the chain.",
    _COLLATERAL,
)
COLLATERAL_MISSING = evidence_rule(
    "collateral_missing", "There is no collateral for this platform to judge its evidence by.", _COLLATERAL
)
COLLATERAL_EXPIRED = evidence_rule(
    "collateral_expired", "The collateral is past its own date, from the future, or older than the profile admits.",
    _COLLATERAL,
)  # fmt: skip
COLLATERAL_INVALID = evidence_rule(
    "collateral_invalid", "The collateral is not of its form, or its vendor's signature does not verify.", _COLLATERAL
)
COLLATERAL_ROLLBACK = evidence_rule(
    "collateral_rollback", "The collateral is validly signed, but older than what was judged by before.", _COLLATERAL
)
REPORT_SIGNATURE = evidence_rule(
    "report_signature",
    "The report's signature does not verify under the key that the vendor certified.",
    "The host collects fresh evidence: `perunml host run`.",
)
WRONG_TEE = evidence_rule(
    "wrong_tee", "The evidence says that it is of one kind, and its body is of another.", _OTHER_TEE
)
DEBUG_ENABLED = evidence_rule(
    "debug_enabled",
    "The TEE or GPU runs in a debug or development mode: its memory can be read from outside.",
    _OTHER_TEE,
)
TCB_STATUS = evidence_rule(
    "tcb_status", "The vendor rates the platform's firmware and microcode in a way that the profile does not admit.",
    "The machine's operator updates firmware and microcode, or the parties admit the status: `perunml agreement propose`.",
)  # fmt: skip
TCB_TOO_OLD = evidence_rule(
    "tcb_too_old", "A part of the platform's firmware is older than the profile demands.",
    "The machine's operator updates the firmware, or the parties agree on another floor: `perunml agreement propose`.",
)  # fmt: skip
ADVISORY_DENIED = evidence_rule(
    "advisory_denied", "A security advisory that the profile denies applies to the platform.",
    "The machine's operator updates firmware and microcode, or the parties admit it: `perunml agreement propose`.",
)  # fmt: skip
MEASUREMENT_MISMATCH = evidence_rule(
    "measurement_mismatch", "What the TEE or GPU runs has another measurement than the profile admits.", _OTHER_TEE
)
CONFIGURATION_MISMATCH = evidence_rule(
    "configuration_mismatch",
    "Attributes or data that were fixed at launch (policy bits, host data, configuration or owner ids) are not the agreed ones.",
    _OTHER_TEE,
)
PART_MISSING = evidence_rule(
    "part_missing", "A part of the evidence that the profile demands was not sent.", _OTHER_TEE
)
RULES_MISSING = evidence_rule(
    "rules_missing",
    "The profile says nothing about a part of the evidence that it demands: what it leaves out is refused.",
    "The parties write its measurements into the agreement: `perunml agreement propose`.",
)
BINDER_MISMATCH = evidence_rule(
    "binder_mismatch",
    "Nothing shows that the TPM and the TEE are of one machine: the TEE's key is not in the TPM's PCR 15, the TPM's binder "
    "key did not sign or works in another state, or the TEE does not vouch for the TPM's key.",
    "The host's operator boots the machine so that the agreed binder is set up, and enrols it again: `perunml host enrol`.",
)
WRONG_DEVICE = evidence_rule(
    "wrong_device",
    "The evidence is genuine, and of another platform or chip than the one that was enrolled.",
    "The host's operator enrols the machine that runs: `perunml host enrol`.",
)
