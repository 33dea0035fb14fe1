"""The rules of the manager: who may call, nonces, enrolment, leases, outputs, resources."""

from perunml.wire.rules import Kind, rule

NOT_ENTITLED = rule(
    "not_entitled",
    Kind.AGREEMENT,
    "The caller has no right to this, or it does not exist: both have this one answer.",
    "Ask the manager's operator to admit the key (`perunml manager admit`), or the parties to name it in the agreement.",
)
BODY_TOO_LARGE = rule(
    "body_too_large",
    Kind.LIMIT,
    "The body of a request is larger than this route reads.",
    "The caller sends less: blobs go in parts of 8 MiB.",
)
ENCODING_REFUSED = rule(
    "encoding_refused",
    Kind.USAGE,
    "The body of a request has a content encoding; only plain bodies are read.",
    "The caller sends the body uncompressed.",
)
RATE_LIMITED = rule(
    "rate_limited",
    Kind.LIMIT,
    "This caller asks too often.",
    "The caller waits some seconds and asks again.",
)
TOO_SLOW = rule(
    "too_slow",
    Kind.LIMIT,
    "The body of a request did not arrive in time.",
    "The caller sends it again over a faster connection.",
)
INTERNAL = rule(
    "manager_failed",
    Kind.UNREACHABLE,
    "The manager failed at something that is not the caller's fault; nothing was changed.",
    "The manager's operator looks at its log for the number given; the caller may try again.",
)
CLOCK_JUMPED = rule(
    "clock_jumped",
    Kind.UNREACHABLE,
    "The manager's clock was set while it ran, or stands before the newest ledger entry; nothing that depends on time is "
    "decided.",
    "The manager's operator sets the clock right and starts the manager again: `perunml manager run`.",
)
CHECKPOINT_REFUSED = rule(
    "checkpoint_refused",
    Kind.AGREEMENT,
    "A checkpoint is not one of this run's, not in order, or not as the agreement allows.",
    "The host's operator updates its software; the parties agree on checkpoints: `perunml agreement propose`.",
)
NONCE_MISMATCH = rule(
    "nonce_mismatch",
    Kind.EVIDENCE,
    "The nonce is not the one given out for this run to this machine (it is another session's, unknown, or was given out "
    "before the manager was started).",
    "The host asks for a new challenge.",
)
NONCE_USED = rule(
    "nonce_used",
    Kind.EVIDENCE,
    "The nonce was answered before; each is good for one answer.",
    "The host asks for a new challenge, or renews with the newest nonce.",
)
NONCE_EXPIRED = rule(
    "nonce_expired", Kind.EVIDENCE, "The nonce is older than its time to live.", "The host asks for a new challenge."
)
RUN_RESERVED = rule(
    "run_reserved",
    Kind.LIMIT,
    "Another host holds the run: it was reserved or its lease has not ended.",
    "The host waits until the reservation or lease ends, and asks again.",
)
RUN_NOT_OPEN = rule(
    "run_not_open",
    Kind.AGREEMENT,
    "The run is finished, failed, refused or lost, and takes no host any more.",
    "A party submits a new run: `perunml job submit`.",
)
RUN_CONFLICT = rule(
    "run_conflict",
    Kind.USAGE,
    "Another run has the same id.",
    "The party submits again (`perunml job submit`); each request has a fresh id.",
)
LEASE_ENDED = rule(
    "lease_ended",
    Kind.SUSPENDED,
    "The lease was not renewed in time, was refused a renewal, or its run ended: nothing from its session is accepted.",
    "A party submits a new run (`perunml job submit`); the host's log says why the old one ended.",
)
ENROLMENT_FAILED = rule(
    "enrolment_failed",
    Kind.EVIDENCE,
    "The answer to an enrolment is wrong, late, was given before, or comes from another operator.",
    "The host's operator starts the enrolment again: `perunml host enrol`.",
)
TPM_CLEARED = rule(
    "tpm_cleared",
    Kind.EVIDENCE,
    "The machine's TPM was cleared, or has another attestation key than was enrolled: what owners approved before does not "
    "hold for it.",
    "The operator enrols it with `perunml host enrol --cleared`; then owners approve a new version of each agreement that "
    "names it.",
)
IDENTITY_CONFLICT = rule(
    "identity_conflict",
    Kind.AGREEMENT,
    "A machine's name or endorsement key is enrolled already: under another key, another name or another operator, or by a "
    "parallel enrolment that was faster.",
    "The operator chooses another name (`perunml host enrol --name NAME`); for another operator's machine, that operator enrols it.",
)
ASSET_CONFLICT = rule(
    "asset_conflict",
    Kind.AGREEMENT,
    "The manifest names the asset's id and version of another manifest, or an older version than the newest.",
    "The owner seals the next version: `perunml seal`.",
)
PART_OUT_OF_ORDER = rule(
    "part_out_of_order",
    Kind.INTEGRITY,
    "A part of a blob does not follow what was received, runs over the size in the manifest, or contradicts what is there.",
    "The sender asks for the asset's state and goes on from there, as `perunml push` does.",
)
STORE_UNKNOWN = rule(
    "store_unknown",
    Kind.USAGE,
    "No store of this name is at the manager, or one is already.",
    "The manager's operator says which there are: `perunml manager store list`.",
)
STORE_IN_USE = rule(
    "store_in_use",
    Kind.USAGE,
    "Assets lie in the store; without it nobody could read them.",
    "The manager's operator keeps it: `perunml manager store list`. Its credentials are replaced by `perunml manager store add --replace`.",
)
STORE_FIXED = rule(
    "store_fixed",
    Kind.USAGE,
    "An asset's ciphertext lies elsewhere than where it is asked for, or is to go: the manager's folder, or a bucket, for as long as the asset is.",
    "The owner pushes it again without `--store`, or seals the next version (`perunml seal`); a host that knows no buckets is brought up to date "
    "by its operator: `perunml host run`.",
)
ASSET_INCOMPLETE = rule(
    "asset_incomplete",
    Kind.PENDING,
    "An asset that is needed is not there, or not all of its blobs have arrived.",
    "Its owner pushes it: `perunml push`.",
)
OWNER_NOT_AGREED = rule(
    "owner_not_agreed",
    Kind.PENDING,
    "The key that sealed an asset has not signed an approval of the agreement, or of a version before it; that others named it "
    "as a party's key binds nobody.",
    "The holder of that key approves too, alone or together with the board: `perunml agreement approve`.",
)
OUTPUT_UNDECLARED = rule(
    "output_not_agreed",
    Kind.INTEGRITY,
    "An output was registered under a name, id or size that the agreement and the delivery do not declare.",
    "The code's owner writes only what the agreement declares.",
)
OUTPUT_INCOMPLETE = rule(
    "output_incomplete",
    Kind.INTEGRITY,
    "A finish names an output that was not registered with all its blobs, or lacks one that was.",
    "The host registers and uploads every output before it finishes.",
)
MODEL_MISSING = rule(
    "model_missing",
    Kind.PENDING,
    "The service's model has not been made yet: no finished run has put it out.",
    "A party runs the training job first: `perunml job submit`.",
)
CUSTODY_BROKEN = rule(
    "custody_broken",
    Kind.INTEGRITY,
    "A stored key does not open as the key of its asset: the database was altered.",
    "The manager's operator brings back the database; the owner pushes the asset's keys again: `perunml push`.",
)
CUSTODY_STATE = rule(
    "custody_state",
    Kind.INTEGRITY,
    "The machine is not in the state in which the manager's root key was sealed to its TPM: other firmware, boot loader, "
    "kernel, initrd or command line.",
    "The manager's operator boots what the manager was made under: `perunml manager run`. What is to run from now on joins it there "
    "(`perunml manager join`), once every agreement in force names it.",
)
CUSTODY_ELSEWHERE = rule(
    "custody_elsewhere",
    Kind.INTEGRITY,
    "The manager's root key was sealed by another TPM or TEE than this machine's, for another measurement, or was altered.",
    "The manager's operator runs it where it was made, as it was made: `perunml manager run`.",
)
CUSTODY_UNAVAILABLE = rule(
    "custody_unavailable",
    Kind.USAGE,
    "Nothing here can keep a root key in the way that was asked for: the TEE has no sealing key, or does not give it.",
    "The manager's operator chooses what this machine has: `perunml manager init --custody`.",
)
STATE_DAMAGED = rule(
    "state_damaged",
    Kind.INTEGRITY,
    "The manager's database is damaged, of another version, or contradicts its own ledger.",
    "The manager's operator brings back the newest copy (`perunml manager restore`); the manager does not start on a damaged one.",
)
COLLATERAL_UNSIGNED = rule(
    "collateral_unsigned",
    Kind.INTEGRITY,
    "A bundle of collateral in the manager's folder is not signed by a key that its operator admitted for that, or cannot be read.",
    "The manager's operator takes the bundle out of the folder, puts there one that an admitted key signed (`perunml collateral bundle`), or "
    "admits its signer (`perunml manager init --collateral-signer`).",
)
FOLDER_IN_USE = rule(
    "folder_in_use",
    Kind.USAGE,
    "Another manager runs on this folder, or the folder is not a manager's, or is one already.",
    "The manager's operator stops the other one, or names the right folder: `perunml manager run --folder FOLDER`.",
)
ROLLBACK_DETECTED = rule(
    "rollback_detected",
    Kind.INTEGRITY,
    "The manager runs on an old copy of its store, or a second copy of it went another way: it was shown a checkpoint of its "
    "own that its ledger does not contain, or a counter that is ahead of it. Or it handed its root key to another manager, which goes on in its place.",
    "The manager's operator stops this copy and brings back the newest one (`perunml manager restore`); where that is lost, the "
    "parties bring what is theirs to a new manager: `perunml recover`.",
)
MANAGER_RESTORED = rule(
    "manager_restored",
    Kind.SUSPENDED,
    "The manager was restored from a backup; every lease from before is over.",
    "The requester submits the run again: `perunml job submit`.",
)
BACKUP_DAMAGED = rule(
    "backup_damaged",
    Kind.INTEGRITY,
    "A backup is not whole, or is not what was written.",
    "The manager's operator takes another one: `perunml manager restore`.",
)
HANDOVER_REFUSED = rule(
    "handover_refused",
    Kind.EVIDENCE,
    "A machine asked for the manager's root key, and did not prove what the newest version in force of every agreement says of a manager, "
    "or an owner has data here that no agreement in force covers. Everybody hears this one answer; the ledger tells the parties more.",
    "The parties bring a version into force whose `manager.profile` names the new manager (`perunml agreement propose`); the manager's "
    "operator reads in its log what was missing, and starts again: `perunml manager join`.",
)
HANDOVER_CLOSED = rule(
    "handover_closed",
    Kind.AGREEMENT,
    "This manager hands its root key to nobody: no agreement is in force, or it has no counter that shows its store to be "
    "the newest (docs/decisions/0026).",
    "The manager's operator makes a new one (`perunml manager init --count-in-tpm`), to which owners bring their keys: `perunml recover`.",
)
BACKUP_OTHER = rule(
    "backup_other",
    Kind.USAGE,
    "A backup is of another manager than the one whose root key was handed to the folder.",
    "The manager's operator names the backup of the manager that handed it over: `perunml manager restore`.",
)
INTAKE_ROTATED = rule(
    "intake_rotated",
    Kind.AGREEMENT,
    "A data key is sealed to an intake key that the manager has replaced.",
    "The owner looks at the manager's evidence again (`perunml trust URL --profile FILE`), then pushes again: `perunml recover`.",
)
WITNESSES_UNREACHABLE = rule(
    "witnesses_unreachable",
    Kind.UNREACHABLE,
    "Too few of the agreement's witnesses cosign the ledger now; nothing is released or renewed before they do.",
    "The witnesses that are named as missing cosign: `perunml witness run`; whoever asked tries again.",
)
WITNESS_CLOCK = rule(
    "witness_clock",
    Kind.USAGE,
    "A cosignature says a time that is more than a minute from the manager's.",
    "The witness's operator, or the manager's, sets the clock right: `perunml witness run`.",
)
NO_HOST_YET = rule(
    "no_host_yet",
    Kind.PENDING,
    "A run waits, and nothing stands in its way but that no host has taken it.",
    "The operator that the agreement names runs a host that may take it: `perunml host run`; `perunml host explain` says why one was refused.",
)
NO_SHARES = rule(
    "no_shares",
    Kind.USAGE,
    "An output's key is split among nobody: an owner of what flowed into it has no receiving key in the agreement.",
    "The parties approve a version that gives every owner a `receive` key: `perunml agreement review FILE` says who lacks one.",
)
SHARE_WRONG = rule(
    "share_wrong",
    Kind.INTEGRITY,
    "A party's share of an output's key is not the one that the lost manager made for it, or the shares do not give that key.",
    "The party that is named gives its own share again: `perunml recovery give`.",
)
SHARE_STALE = rule(
    "share_stale",
    Kind.INTEGRITY,
    "A share is of an earlier split of the output's key: shares of two splits give no key together.",
    "The party that is named gives the share of the newest split, as the other holders keep it: `perunml recovery give`.",
)
SHARE_GIVEN = rule(
    "share_given",
    Kind.INTEGRITY,
    "The party gave its share of this output's key already; one party's share counts once.",
    "Another holder gives its own: `perunml recovery list` says who has not.",
)
NOTHING_TO_ADOPT = rule(
    "nothing_to_adopt",
    Kind.USAGE,
    "No output of a lost manager waits here for its ciphertext.",
    "Holders of its key's shares claim it first: `perunml recovery give`; then the operator brings the backup.",
)
