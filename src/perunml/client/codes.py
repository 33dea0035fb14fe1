"""The rules of the parties' side: the home folder, the pinned manager, what was pulled, the ledger as this party saw it."""

from perunml.wire.rules import Kind, rule

USAGE = rule(
    "usage",
    Kind.USAGE,
    "A command line is not one that is understood: an unknown verb or option, a missing argument, a value of a wrong form.",
    "The caller corrects it; `perunml --help`, and `--help` after any verb, say how.",
)
NO_IDENTITY = rule(
    "no_identity",
    Kind.USAGE,
    "The home folder holds no identity, or not the one that is needed.",
    "The party makes one with `perunml id create`, or names another folder with `--home`.",
)
ALREADY_EXISTS = rule(
    "already_exists",
    Kind.USAGE,
    "A file or folder that would be written is there already.",
    "The caller names another one, or moves the old one away; nothing is overwritten.",
)
BROWSER_REFUSED = rule(
    "browser_refused",
    Kind.USAGE,
    "A local proxy was asked by a web page, or under a name that is not this machine's; it answers programs on this machine alone.",
    "The client asks http://127.0.0.1 or localhost, at the port that was printed: `perunml proxy RUN --listen 127.0.0.1:9000`.",
)
LISTEN_REFUSED = rule(
    "listen_refused",
    Kind.USAGE,
    "A local proxy cannot listen where it was told: not an address of this machine's own, or one that is taken.",
    "The party names 127.0.0.1 and a free port: `perunml proxy RUN --listen 127.0.0.1:9000`.",
)
NOT_FOUND = rule(
    "not_found",
    Kind.USAGE,
    "A file, asset, agreement or pinned manager that a command names is not there.",
    "The caller mends the name; `perunml asset list`, `perunml agreement list` and `perunml job list` print what there is.",
)
NOT_PINNED = rule(
    "not_pinned",
    Kind.USAGE,
    "No manager is pinned, or several are and none was chosen.",
    "The party verifies and pins one with `perunml trust URL --profile FILE`, or chooses with `--manager`.",
)
WRONG_MANAGER = rule(
    "wrong_manager",
    Kind.EVIDENCE,
    "A manager's identity is not the one that the profile or the agreement names.",
    "The party asks the manager's operator which key is right, out of band, then verifies that one: `perunml trust`.",
)
CUSTODY_ORIGIN = rule(
    "custody_origin",
    Kind.EVIDENCE,
    "The manager's root key was handed to it by another one, which did not prove what the profile asks for: who ran that one may know "
    "every key of this manager.",
    "The party looks at what the manager before proved, and where that was good enough names it in `origins` of its ManagerProfile "
    "(docs/measurements.md): `perunml trust URL --profile FILE`.",
)
NOT_ACTIVATED = rule(
    "not_activated",
    Kind.EVIDENCE,
    "The manager's TPM did not open a credential that was made for its endorsement key and for the attestation key that "
    "signed the evidence.",
    "The manager's operator runs it on the machine whose TPM it shows: `perunml manager run`.",
)
MANAGER_CHANGED = rule(
    "manager_changed",
    Kind.EVIDENCE,
    "A pinned manager proves less than when it was pinned, or runs on another machine.",
    "The party asks the manager's operator why; to accept it, it moves the old pin away and verifies anew: `perunml trust`.",
)
PASSPHRASE_MISSING = rule(
    "passphrase_missing",
    Kind.USAGE,
    "A secret is to be opened, and no passphrase was given.",
    "The caller types it at the terminal, or passes an open file descriptor: `perunml --passphrase-fd N`.",
)
NO_KEY_OF_A_PARTY = rule(
    "no_key_of_a_party",
    Kind.AGREEMENT,
    "The identity's key is no key of a party of the agreement, or may not do what was asked for its party.",
    "The party uses the home folder whose key the agreement names (`perunml id show`), or proposes an agreement that names this one.",
)
NOT_CONFIRMED = rule(
    "not_confirmed",
    Kind.USAGE,
    "What would be signed was not confirmed, or is not what was confirmed.",
    "The party reviews it, then answers yes or names the digest: `perunml agreement approve NAME --digest DIGEST`.",
)
NOT_FINISHED = rule(
    "not_finished",
    Kind.PENDING,
    "A run has not finished in the time that was waited.",
    "The caller waits on with `perunml job wait`.",
)
RUN_FAILED = rule(
    "run_failed",
    Kind.JOB,
    "A run ended without its outputs: failed, lost its lease, or was refused.",
    "The requester reads the run's own reasons, which say who mends what: `perunml job show`.",
)
NO_OUTPUT = rule(
    "no_output",
    Kind.HELD,
    "A run has no output of that name, or none that may leave to this party yet.",
    "The parties that the agreement names approve its release; `perunml output list` shows who it waits for.",
)
OUTPUT_MISMATCH = rule(
    "output_mismatch",
    Kind.INTEGRITY,
    "An output, its manifest and its receipt do not belong together.",
    "The manager's operator explains it; nothing was unpacked.",
)
LOCAL_FILE = rule(
    "local_file",
    Kind.USAGE,
    "A local file or folder cannot be read or written.",
    "The caller mends its path or its permissions.",
)
WRONG_DOCUMENT = rule(
    "wrong_document",
    Kind.INTEGRITY,
    "A manager sent another document than the one asked for by digest.",
    "The manager's operator explains it; nothing was signed.",
)
AMBIGUOUS = rule(
    "ambiguous",
    Kind.USAGE,
    "A name fits several things.",
    "The caller gives the digest; `perunml asset list` and `perunml agreement list` print it.",
)
BASELINE_SOURCE = rule(
    "baseline_source",
    Kind.USAGE,
    "What a baseline was to be made of cannot be read, is of no known kind, needs a tool that is not installed, or holds "
    "nothing.",
    "The caller mends the source, installs the tool or names another source (the message says which): `perunml baseline build`.",
)
SHARE_DAMAGED = rule(
    "share_damaged",
    Kind.INTEGRITY,
    "A share of an output's key that the manager sent, or that lies in the home folder, is not the one that its document says.",
    "The party fetches it again while the manager is there: `perunml recovery keep`.",
)
KEY_FORGOTTEN = rule(
    "key_forgotten",
    Kind.USAGE,
    "A former key of this party is needed, and this home has forgotten its private half.",
    "The party seals the asset anew under its present key: `perunml seal`.",
)
NO_NEXT_KEY = rule(
    "no_next_key",
    Kind.USAGE,
    "This home has made no keys that shall replace those in use.",
    "The party makes them first: `perunml id rotate`.",
)
STILL_NAMED = rule(
    "key_still_named",
    Kind.PENDING,
    "A key cannot be replaced or forgotten yet: an agreement in force names it alone, or something in this home is sealed to it.",
    "The party does what is named first, such as `perunml agreement rotate-key`.",
)
BLOB_TOO_LARGE = rule(
    "blob_too_large",
    Kind.LIMIT,
    "A file's ciphertext is larger than what goes into a bucket as one object (5 GiB).",
    "The owner splits the file and seals again (`perunml seal`), or pushes to the manager's folder: `perunml push` without `--store`.",
)
SEALING_BUSY = rule(
    "sealing_busy",
    Kind.USAGE,
    "Another process seals an asset of this name in this home now.",
    "The party waits for it to end, then seals: `perunml seal`.",
)
IMAGE_ODD = rule(
    "image_odd",
    Kind.USAGE,
    "A machine image's files are not of their form, or do not belong together.",
    "The operator builds the image anew (`make image`), or names its folder: `perunml image golden IMAGE`.",
)
GOLDEN_OPEN = rule(
    "golden_open",
    Kind.USAGE,
    "Golden values were asked for without saying what the firmware measures of itself.",
    "The caller gives a boot log of a trusted machine, Secure Boot's keys, or leaves those PCRs open in so many words: `perunml image golden --help`.",
)
