"""The rules of collecting evidence: what can be wrong with this machine's own devices."""

from perunml.wire.rules import Kind, rule

TPM_UNAVAILABLE = rule(
    "tpm_unavailable",
    Kind.UNREACHABLE,
    "The TPM does not answer, or refuses a command.",
    "The host's operator: look at the TPM with `perunml host doctor`; the agent needs access to /dev/tpmrm0.",
)
TPM_CHANGED = rule(
    "tpm_changed",
    Kind.EVIDENCE,
    "The TPM is not the one that this agent's folder was made for: replaced, or its endorsement seed changed.",
    "The host's operator enrols the machine anew, from an empty folder (`perunml host enrol`); owners approve it again.",
)
TPM_BUSY = rule(
    "tpm_busy",
    Kind.UNREACHABLE,
    "PCRs changed each time between reading and quoting them.",
    "The agent tries again by itself; the host's operator loads fewer new files while a job begins.",
)
EK_CERTIFICATE_MISSING = rule(
    "ek_certificate_missing",
    Kind.EVIDENCE,
    "The TPM holds no EK certificate where the TCG profile puts one (RSA-2048 at 0x01c00002, ECC P-256 at 0x01c0000a, the high range from 0x01c00012 on).",
    "The host's operator uses a machine whose TPM came with its certificate.",
)
IMA_LOG_UNREADABLE = rule(
    "ima_log_unreadable",
    Kind.EVIDENCE,
    "The kernel's IMA log cannot be read.",
    "The host's operator boots a kernel with IMA and `ima_policy=tcb`, mounts securityfs and lets the agent read it.",
)
EVENT_LOG_UNREADABLE = rule(
    "event_log_unreadable",
    Kind.EVIDENCE,
    "The firmware's boot log, or the kernel's command line beside it, cannot be read or is too long.",
    "The host's operator mounts securityfs and lets the agent read it, or names other files (`perunml host run`).",
)
