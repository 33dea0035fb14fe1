"""The rules of collecting vendors' collateral."""

from perunml.wire.rules import Kind, rule

VENDOR_ANSWER = rule(
    "vendor_answer",
    Kind.UNREACHABLE,
    "A vendor's service did not answer, or answered something else than it was asked for; no bundle was written.",
    "The operator tries again later, names a cache of the vendor's (`--pcs`, `--kds`, `--rim`, `--ocsp`), or brings the files from "
    "another machine: `perunml collateral bundle --from`.",
)
COLLATERAL_LACKING = rule(
    "collateral_lacking",
    Kind.USAGE,
    "What a bundle of collateral was to be made for cannot be told from what was given, or the folder holds nothing for it; no "
    "bundle was written.",
    "The operator adds what the message names, or leaves out what it is for: `perunml collateral bundle`.",
)
