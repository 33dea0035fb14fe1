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
    "The caller tries again later, and checks the address in the pin and that the other side runs. Nothing was changed that was not "
    "acknowledged.",
)
RECEIPT_MISMATCH = rule(
    "receipt_mismatch",
    Kind.INTEGRITY,
    "A receipt is not about the service, request or answer it came with.",
    "The client keeps both and tells the manager's operator: a service signed something that did not happen.",
)
SERVICE_NOT_EXPECTED = rule(
    "service_not_expected",
    Kind.EVIDENCE,
    "A service's certificate is of another manager, agreement, run or model than the one asked for.",
    "The client asks the run's own endpoint (`perunml infer` without `--endpoint`); somebody may have put another service into its place.",
)
SERVICE_CERTIFICATE_OVER = rule(
    "service_certificate_over",
    Kind.SUSPENDED,
    "A service's certificate is not valid now: its lease is over, or has not begun by this machine's clock.",
    "The client asks again (`perunml infer`) when the service has renewed its lease, and checks that its clock is right.",
)
REQUEST_TOO_LARGE = rule(
    "request_too_large",
    Kind.LIMIT,
    "A request's body is larger than a service reads.",
    "The client sends fewer rows at once: `perunml infer RUN FILE`.",
)
SETTINGS_ODD = rule(
    "settings_odd",
    Kind.USAGE,
    "The settings of a machine, `host.yaml` or `manager.yaml`, are not there or not of their form.",
    "The machine's operator writes them anew: `perunml host boot --help` and `perunml manager boot --help` name each.",
)
