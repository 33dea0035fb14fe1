"""The rules of Intel's evidence alone; what it shares with other TEEs is in `evidence.tee.codes`."""

from perunml.evidence.codes import evidence_rule

_PLATFORM = (
    "The machine's operator registers the platform and updates its firmware, or offers another: `perunml host enrol`."
)
QE_IDENTITY = evidence_rule(
    "qe_identity",
    "The quoting enclave is not Intel's, is too old, or did not certify the key that signs the quote.",
    _PLATFORM,
)
TCB_LEVEL_MISSING = evidence_rule(
    "tcb_level_missing", "No level of Intel's TCB information fits the platform: it is older than any that is rated.", _PLATFORM
)  # fmt: skip
SEPT_VE = evidence_rule(
    "sept_ve_disable",
    "The trust domain was started without SEPT_VE_DISABLE: the host can inject exceptions into it.",
    "The host's operator starts the domain with that attribute set, as current launchers do: `perunml host doctor`.",
)
SERVICE_TD = evidence_rule(
    "service_td",
    "A service domain (migration) is bound to the trust domain: it could be moved where nothing was proven.",
    "The host's operator starts the domain without one: `perunml host doctor`.",
)
QUOTE_UNSUPPORTED = evidence_rule(
    "quote_unsupported",
    "The quote is of a version, key type or certification type that is not accepted here.",
    "The host's operator updates the platform's quoting software: `perunml host doctor`.",
)
RTMR_MISMATCH = evidence_rule(
    "rtmr_mismatch",
    "A runtime measurement register of the trust domain has no agreed value, and no event log explains it.",
    "The host's operator boots the agreed system, or the parties agree on the register's value: `perunml agreement propose`.",
)
PARSERS_DISAGREE = evidence_rule(
    "parsers_disagree",
    "Two independent readers of the quote do not see the same in it, so neither is believed.",
    "The host collects fresh evidence: `perunml host run`; who sees it again reports it with the quote, for no honest machine makes one.",
)
QUOTE_REFUSED = evidence_rule(
    "quote_refused",
    "The library that verifies Intel's quotes refuses this one for a reason that has no code of its own.",
    "Whoever sees this reports it with what was seen; the host quotes again: `perunml host run`.",
)
