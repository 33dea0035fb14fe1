"""The rules of evidence: every way in which a machine fails to prove what it must."""

from perunml.wire.rules import Kind, Rule, rule


def evidence_rule(code: str, meaning: str, mend: str) -> Rule:
    """A way in which evidence fails; `mend` names who can mend it, and how."""
    return rule(code, Kind.EVIDENCE, meaning, mend)


_HOST = (
    "The host's operator lets the enrolled machine quote again; if it repeats, enrols it anew: `perunml host enrol`."
)
_BOOT = "The host's operator reboots the machine into the agreed state, or the parties agree on a new baseline: `perunml agreement propose`."

# What was sent at all
WRONG_PROFILE = evidence_rule(
    "wrong_profile",
    "The evidence is of another kind than the profile asks for, or lacks a part of it.",
    "The operator offers a machine of the agreed profile, or the parties agree on another profile: `perunml agreement propose`.",
)
SIMULATED_NOT_ALLOWED = evidence_rule(
    "simulated_not_allowed",
    "The machine is simulated (a software TPM, or no root of trust at all) where the agreement does not say `simulated`.",
    "The operator offers a real machine, or every party agrees to `simulated`: `perunml agreement propose`.",
)
WRONG_MACHINE = evidence_rule(
    "wrong_machine", "The evidence is a genuine one of another machine than the enrolled one it was sent for.", _HOST
)
NO_BASELINE = evidence_rule(
    "no_baseline",
    "The profile demands a baseline (agreed PCR values and files) and there is none to judge by.",
    "The parties name a baseline by digest in the agreement, and one of them sends its document: `perunml document push`.",
)
BASELINE_INCOMPLETE = evidence_rule(
    "baseline_incomplete",
    "The baseline leaves a boot PCR (0 to 9) open: anything could have been booted.",
    "The parties agree on a baseline that names PCRs 0 to 9 of one bank: `perunml document push`.",
)
NON_CANONICAL = evidence_rule(
    "non_canonical",
    "A structure of the evidence is not exactly of its form: truncated, trailing or padding bytes, a length out of "
    "bounds, an unknown or duplicate member.",
    _HOST,
)

# The quote
NOT_TPM_GENERATED = evidence_rule(
    "not_tpm_generated", "The attested structure does not start with TPM_GENERATED: no TPM made it.", _HOST
)
WRONG_ATTEST_TYPE = evidence_rule("wrong_attest_type", "The attested structure is not a quote.", _HOST)
QUOTE_SIGNATURE = evidence_rule(
    "quote_signature", "The quote's signature does not verify under the machine's attestation key.", _HOST
)
WEAK_SCHEME = evidence_rule(
    "weak_scheme",
    "A signature's scheme, hash, key size or exponent is not one that is accepted (RSASSA, RSAPSS with 2048 bits or "
    "more, ECDSA on P-256 or P-384; SHA-256, SHA-384 or SHA-512), or not the key's own.",
    "The operator makes an attestation key of an accepted scheme and enrols again: `perunml host enrol`.",
)
UNKNOWN_AK = evidence_rule(
    "unknown_ak", "The quote is not by the enrolled attestation key, though perhaps by another key of a TPM.", _HOST
)
BINDING_MISMATCH = evidence_rule(
    "binding_mismatch",
    "The evidence is not bound to this very exchange: nonce, purpose, session keys, manager, agreement, run, host, "
    "payload. It is old, relayed, or made for something else.",
    "The host asks for a new challenge and collects evidence for it.",
)
PCR_SELECTION = evidence_rule(
    "pcr_selection",
    "The PCR values sent are not exactly those that the quote's signed selection names, or a PCR that must be quoted "
    "is not.",
    _HOST,
)
PCR_DIGEST = evidence_rule("pcr_digest", "The PCR values sent do not give the digest that the quote signs.", _HOST)
WEAK_BANK = evidence_rule(
    "weak_bank",
    "No PCR bank of SHA-256 or stronger is quoted.",
    "The operator enables the TPM's SHA-256 bank and quotes it.",
)
CLOCK_ROLLBACK = evidence_rule(
    "clock_rollback",
    "The TPM's reset count, restart count or clock is lower than it was: an old quote, a restored or a cleared TPM.",
    "The operator enrols the machine anew (`perunml host enrol`); owners approve it again.",
)
CLOCK_UNSAFE = evidence_rule(
    "clock_unsafe",
    "The TPM says that its clock may have been shown a later value before (it lost power without a shutdown).",
    "The operator waits until the TPM's clock is safe again (at most 70 minutes), or shuts down and boots in order.",
)
FIRMWARE_DENIED = evidence_rule(
    "firmware_denied", "The TPM runs a firmware version that the policy denies.", "The operator updates the TPM."
)

# Keys and enrolment
AK_ATTRIBUTES = evidence_rule(
    "ak_attributes",
    "The attestation key is not fixedTPM, fixedParent, sensitiveDataOrigin, restricted, for signing and not for "
    "decryption: it may sign what no TPM made, or exist outside of one.",
    "The operator makes the key with `perunml host enrol`, which asks for these attributes.",
)
EK_CHAIN = evidence_rule(
    "ek_chain",
    "The certificate does not lead to a root of a TPM vendor that is known by fingerprint, or to one (a vendor's, or a "
    "simulated one given by name) that this manager was given.",
    "The operator sends the vendor's intermediate certificates; the manager's operator adds the vendor's root.",
)
EK_EXPIRED = evidence_rule(
    "ek_expired", "A certificate of the EK's chain is not valid at this time.", "The TPM's vendor renews it."
)
EK_REVOKED = evidence_rule(
    "ek_revoked",
    "A revocation list of its issuer names a certificate of the EK's or attestation key's chain.",
    "The operator offers another machine: `perunml host enrol` there.",
)
REVOCATION_UNKNOWN = evidence_rule(
    "ek_revocation_unknown",
    "The manager demands revocation lists, and there is none in force for a certificate of the chain.",
    "The host's operator enrols with the issuer's newest revocation list (`perunml host enrol`), or the manager's adds it.",
)
TPM_KIND = evidence_rule(
    "tpm_kind",
    "The policy asks for a TPM that is a chip of its own, and this one is firmware, virtual, simulated or of an "
    "unknown kind.",
    "The operator enrols a machine with a discrete TPM (`perunml host enrol`), or the parties agree on another baseline.",
)
EK_CERTIFICATE = evidence_rule(
    "ek_certificate",
    "The EK certificate is not one: wrong usage (another extended one, or for signing), a CA, or a critical extension "
    "that is not known.",
    "The operator sends the certificate that the vendor issued for the EK.",
)
AK_CERTIFICATE = evidence_rule(
    "ak_certificate",
    "The attestation key's certificate is for another key, of another cloud instance than was enrolled, or by no cloud.",
    "The operator enrols with the certificate that the cloud issued for this machine's key: `perunml host enrol`.",
)
EK_MISMATCH = evidence_rule(
    "ek_mismatch",
    "The EK's public key is not the one that its certificate names.",
    "The operator sends both of one TPM.",
)
EK_TEMPLATE = evidence_rule(
    "ek_template",
    "The EK is not of a standard template of the TCG EK Credential Profile (attributes, policy, parameters).",
    "The operator makes the EK from the standard template; `perunml host enrol` does.",
)

# What the machine measured
PCR_MISMATCH = evidence_rule("pcr_mismatch", "A PCR has another value than the baseline allows.", _BOOT)
PCR10_MISMATCH = evidence_rule(
    "pcr10_mismatch",
    "No prefix of the IMA log gives the quoted PCR 10, or a line seen before is gone: lines were cut, dropped, changed, "
    "swapped, doubled, or something else extended the PCR.",
    _BOOT,
)
IMA_NOT_EXTENDED = evidence_rule(
    "ima_not_extended",
    "The quoted PCR 10 is zero: IMA measured nothing into this TPM.",
    "The operator boots with an IMA policy (`ima_policy=tcb` at least) and the TPM's driver built in.",
)
IMA_LAG = evidence_rule(
    "ima_lag",
    "The IMA log goes on for too many lines after the quoted prefix.",
    "The host reads the log right after the quote, and quotes again.",
)
IMA_OFFSET = evidence_rule(
    "ima_offset",
    "An increment of the IMA log does not continue the part that the manager keeps of this boot.",
    "The host sends the whole log.",
)
BOOT_AGGREGATE = evidence_rule(
    "boot_aggregate",
    "The IMA log's first line is not the boot_aggregate of the quoted PCRs 0 to 9, or there is a second one.",
    _BOOT,
)
IMA_VIOLATION = evidence_rule(
    "ima_violation", "The IMA log holds a violation: a file was written while it was measured.", _BOOT
)
IMA_TEMPLATE_HASH = evidence_rule(
    "ima_template_hash", "A line of the IMA log has a template hash that its data does not give.", _HOST
)
IMA_TEMPLATE = evidence_rule(
    "ima_template",
    "A line of the IMA log is of a template that proves no file (known are ima-ng, ima-ngv2, ima-sig, ima-sigv2, ima-buf, "
    "ima-modsig, evm-sig).",
    "The host's operator boots with `ima_template=ima-ng` or ima-sig.",
)
IMA_PCR = evidence_rule("ima_pcr", "A line of the IMA log is for another PCR than 10.", _BOOT)
WEAK_DIGEST = evidence_rule(
    "weak_digest",
    "A file was measured with SHA-1, MD5 or an unknown hash, or its digest has a wrong size.",
    "The operator boots with `ima_hash=sha256`.",
)
NOT_IN_POLICY = evidence_rule(
    "not_in_policy",
    "The machine loaded a file that the baseline does not list, or one with another digest.",
    "The operator reboots without that file, or the parties agree on a baseline that lists it: `perunml document push`.",
)

# The boot log
_BASELINE = (
    "The parties list it in a new baseline (`perunml baseline build`), or the host's operator boots the agreed system."
)
EVENT_LOG_MISMATCH = evidence_rule(
    "event_log_mismatch",
    "The boot log does not give the quoted PCRs: events were changed, cut, added, or are of another boot or bank.",
    "The host's operator sends the log of this very boot (`perunml host run` does), or the parties leave that PCR open.",
)
EVENT_LOG_MISSING = evidence_rule(
    "event_log_missing",
    "The baseline has rules for the boot log, and none was sent.",
    "The host's operator lets the agent read the firmware's log (`perunml host run` does by itself).",
)
BOOT_EVENT = evidence_rule(
    "boot_event", "Something was measured while booting that the baseline does not list.", _BASELINE
)
BOOT_SEPARATOR = evidence_rule(
    "boot_separator",
    "A PCR that is judged by its events does not have exactly one separator between firmware and what it started.",
    "The host's operator updates the firmware, or the parties agree on the PCR's exact value: `perunml baseline build`.",
)
SECURE_BOOT_OFF = evidence_rule(
    "secure_boot_off",
    "Secure Boot was off, in setup mode, or not measured.",
    "The host's operator enables it in the firmware's setup and reboots; `perunml host doctor` says what it sees.",
)
DBX_OUTDATED = evidence_rule(
    "dbx_outdated",
    "The firmware's list of revoked images and certificates lacks entries that the baseline demands.",
    "The host's operator updates it with the system's firmware updater and reboots; `perunml host doctor` says what is there.",
)
KERNEL_CMDLINE = evidence_rule(
    "kernel_cmdline",
    "The measured kernel command line lacks a word that the baseline demands, holds one that it forbids, or is not known.",
    "The host's operator boots with the agreed command line, or the parties agree on another: `perunml baseline build`.",
)

# What the parties ask of the IMA log besides listed files
IMA_WEAK_EXTEND = evidence_rule(
    "ima_weak_extend",
    "The kernel (before Linux 5.8) extended PCR 10 with SHA-1 and zeros: it proves the log no better than SHA-1 does.",
    "The host's operator boots a newer kernel, and the parties agree on its baseline: `perunml agreement propose`.",
)
IMA_SIGNATURE = evidence_rule(
    "ima_signature",
    "A file that the baseline does not list has a signature, but by no agreed key that was measured into the kernel's "
    "keyring before, or one that does not verify.",
    "The host's operator reboots without that file, or the parties agree on the key or the file: `perunml document push`.",
)
IMA_KEYRING = evidence_rule(
    "ima_keyring",
    "A key entered a keyring of the kernel that the baseline does not allow there.",
    "The host's operator reboots without that key, or the parties agree on a baseline that allows it: `perunml document push`.",
)
IMA_POLICY = evidence_rule(
    "ima_policy",
    "The baseline names IMA policies and the log does not show one of them loaded, or shows another one, or a policy was "
    "loaded again.",
    "The host's operator reboots with the agreed IMA policy, or the parties agree on a baseline that allows it: `perunml document push`.",
)
IMA_REQUIRED = evidence_rule(
    "ima_required",
    "A file that must have been measured is not among the proven lines of the IMA log: the policy in force does not "
    "measure it, or came too late.",
    "The host's operator boots with an IMA policy that measures it from the start, or the parties agree on a baseline "
    "that does not require it: `perunml document push`.",
)
