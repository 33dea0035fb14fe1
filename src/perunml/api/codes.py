"""The rules of the channel between a manager and those who pinned it."""

from perunml.wire.rules import Kind, rule

CHANNEL_MISMATCH = rule(
    "channel_mismatch",
    Kind.EVIDENCE,
    "The other end of a TLS connection does not hold the key that was attested and pinned.",
    "Somebody stands between, or the manager has a new key: ask its operator, then verify it again with `perunml trust`.",
)
UNREACHABLE = rule(
    "unreachable",
    Kind.UNREACHABLE,
    "Nobody answered at an address, the answer broke off, or it was not one of this protocol's answers.",
    "Try again later; check the address in the pin and that the other side runs. Nothing was changed that was not "
    "acknowledged.",
)
RECEIPT_MISMATCH = rule(
    "receipt_mismatch",
    Kind.INTEGRITY,
    "A receipt is not about the service, request or answer it came with.",
    "The client keeps both and tells the manager's operator: a service signed something that did not happen.",
)
