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
TEE_UNAVAILABLE = rule(
    "tee_unavailable",
    Kind.UNREACHABLE,
    "The TEE that this machine was told to prove itself by has no interface here, or none that the agent may open.",
    "The host's operator: `perunml host doctor` names what is missing and the one fix for it.",
)
TEE_REFUSED = rule(
    "tee_refused",
    Kind.UNREACHABLE,
    "The TEE's firmware, its quoting service or the hypervisor answers a request for a report with an error.",
    "The host's operator looks after the quoting service or the hypervisor; `perunml host doctor` says which one it is.",
)
TEE_BUSY = rule(
    "tee_busy",
    Kind.UNREACHABLE,
    "The TEE was busy, or another program wrote into the request, each time that a report was asked for.",
    "The agent tries again by itself; the host's operator gives the interface to the agent alone (`perunml host doctor`).",
)
TEE_OTHER = rule(
    "tee_other",
    Kind.USAGE,
    "The machine is in another TEE than the one that it was told to prove itself by.",
    "The host's operator names the TEE that it is in, or none: `perunml host run`.",
)
ODD_ANSWER = rule(
    "odd_answer",
    Kind.EVIDENCE,
    "A device's answer is not of its form: empty, too long, over other data, or a table that points outside of itself.",
    "The host's operator updates kernel, driver, firmware or hypervisor; `perunml host doctor` says what it sees of each.",
)
GPU_UNAVAILABLE = rule(
    "gpu_unavailable",
    Kind.UNREACHABLE,
    "The NVIDIA driver, or the program `nvattest` in its place, gives no report of a device.",
    "The host's operator: `perunml host doctor` names what is missing and the one fix for it.",
)
GPU_NOT_CONFIDENTIAL = rule(
    "gpu_not_confidential",
    Kind.EVIDENCE,
    "The machine was told to prove its GPUs, and they are not in confidential computing mode.",
    "The host's operator turns it on from outside of the guest; `perunml host doctor` says how.",
)
NO_ROOT_OF_TRUST = rule(
    "no_root_of_trust",
    Kind.USAGE,
    "The agent was told to prove by whatever is there, and this machine has neither a TPM nor a TEE that the agent may use.",
    "The host's operator looks at what is missing with `perunml host doctor`.",
)
BINDER_KEY = rule(
    "binder_key",
    Kind.EVIDENCE,
    "The TPM's key that only this machine's TEE can use is not there, or does not work: other PCRs 0 to 7, another TPM, a lost file.",
    "The host's operator boots the agreed system, or enrols the machine anew with its binder: `perunml host enrol`.",
)
KEY_MEASURED = rule(
    "key_measured",
    Kind.EVIDENCE,
    "The PCR that is to show the TEE's key shows something else already: it was measured in this boot by someone else.",
    "The host's operator boots anew and lets nothing extend PCR 15 before `perunml host measure-key`.",
)
KEY_NOT_MEASURED = rule(
    "key_not_measured",
    Kind.USAGE,
    "The agent was told to show the TEE's key in a PCR, and none was measured in its folder.",
    "The host's operator runs `perunml host measure-key` while the machine boots, with the agent's folder.",
)
