"""The rules of the decision. `binding_mismatch` is evidence's; a host's own failures come with its appraisal."""

from perunml.wire.rules import Kind, rule

NOT_IN_FORCE = rule(
    "agreement_not_in_force",
    Kind.PENDING,
    "Not every party's board has approved this very agreement, or a newer version is in force.",
    "The parties named approve it: `perunml agreement approve`.",
)
WITNESS_QUORUM_MISSING = rule(
    "witness_quorum_missing",
    Kind.PENDING,
    "The agreement demands that witnesses cosign the ledger before anything is released, and their cosignatures are not "
    "there.",
    "The witnesses that the agreement names cosign the newest checkpoint: `perunml witness run`.",
)
AGREEMENT_MISMATCH = rule(
    "agreement_mismatch",
    Kind.AGREEMENT,
    "The run was requested under another agreement than the one it is judged by.",
    "The requester submits the run again under the agreement in force: `perunml job submit`.",
)
JOB_UNKNOWN = rule(
    "job_unknown",
    Kind.AGREEMENT,
    "The agreement has no job of this name.",
    "The requester names a job of the agreement; `perunml agreement show` lists them.",
)
AGREEMENT_EXPIRED = rule(
    "agreement_expired",
    Kind.SUSPENDED,
    "The job's `until`, or for outputs the last `until` of all jobs, is over.",
    "The parties agree on a new version with a later end: `perunml agreement propose`.",
)
ASSET_SUSPENDED = rule(
    "asset_suspended",
    Kind.SUSPENDED,
    "The owner of an asset that flows into this has suspended it.",
    "The owner's board lifts it: `perunml asset lift`.",
)
RUNS_EXHAUSTED = rule(
    "runs_exhausted",
    Kind.LIMIT,
    "All runs of this job that were agreed have been released.",
    "The parties agree on a new version with more runs: `perunml agreement propose`.",
)
RESUMES_EXHAUSTED = rule(
    "resumes_exhausted",
    Kind.LIMIT,
    "A run lost its lease and was resumed as often as was agreed.",
    "The requester submits a new run, if runs are left: `perunml job submit`.",
)
WALL_EXCEEDED = rule(
    "wall_exceeded",
    Kind.LIMIT,
    "A run takes longer than its agreed wall time.",
    "The requester submits a run that does less (`perunml job submit`), or the parties agree on more.",
)
USAGE_UNKNOWN = rule(
    "usage_unknown",
    Kind.LIMIT,
    "It is not known how much of a limit is used up, so nothing is left of it.",
    "The manager's operator repairs its store; missing is not zero.",
)
PARAMETER_OUT_OF_RANGE = rule(
    "parameter_out_of_range",
    Kind.AGREEMENT,
    "A parameter of the run is missing, not declared, or not among the values agreed.",
    "The requester submits the run with agreed values: `perunml job submit`.",
)
COMBINATION_NOT_AGREED = rule(
    "combination_not_agreed",
    Kind.AGREEMENT,
    "The run's parameters, each of which is agreed by itself, are not agreed together.",
    "The requester submits the run with a combination that the agreement lists: `perunml job submit`.",
)
DIGEST_NOT_AGREED = rule(
    "digest_not_agreed",
    Kind.AGREEMENT,
    "The run pins an asset that is not the one agreed: changed code, another data set, a name that does not stand there.",
    "The requester uses the agreed asset, or the parties agree on the new digest: `perunml agreement propose`.",
)
WRONG_OPERATOR = rule(
    "wrong_operator",
    Kind.AGREEMENT,
    "The host was enrolled by somebody who is not the job's operator.",
    "The operator that the agreement names runs the job on its machine: `perunml host run`.",
)
PROFILE_NOT_MET = rule(
    "profile_not_met",
    Kind.EVIDENCE,
    "The host did not prove any of the profiles that the agreement accepts for this role.",
    "The operator offers a machine that meets the profile, or the parties agree on another one: `perunml agreement propose`.",
)
MACHINE_NOT_AGREED = rule(
    "machine_not_agreed",
    Kind.AGREEMENT,
    "The machine is not among those that the agreement names for this role.",
    "The operator runs the job on a named machine; or each party approves a version that names this one: `perunml agreement propose`.",
)
BOOT_USED = rule(
    "boot_used_by_other_agreement",
    Kind.AGREEMENT,
    "The machine has served another agreement since it booted, and not both say `tenancy: shared`.",
    "The host's operator reboots the machine.",
)
BASELINE_MISSING = rule(
    "baseline_missing",
    Kind.EVIDENCE,
    "The baseline that a profile names by digest is not at hand, so nothing can be judged by it.",
    "A party pushes the baseline's document; `perunml agreement show` gives its digest.",
)
BASELINE_UNSIGNED = rule(
    "baseline_unsigned",
    Kind.EVIDENCE,
    "The agreement says whose board must have signed the baseline, and that board has not.",
    "The party that the agreement names signs the same document and pushes it: `perunml document push FILE`.",
)
CLIENT_NOT_IN_AGREEMENT = rule(
    "client_not_in_agreement",
    Kind.AGREEMENT,
    "Who asks the service is not among the clients that the agreement names.",
    "The parties agree on a version that names the client: `perunml agreement propose`.",
)
OUTPUT_UNKNOWN = rule(
    "output_unknown",
    Kind.AGREEMENT,
    "The agreement declares no such output.",
    "The asker names an output of the job; `perunml agreement show` lists them.",
)
RECIPIENT_NOT_AGREED = rule(
    "recipient_not_agreed",
    Kind.AGREEMENT,
    "The output does not go to this party.",
    "The parties agree on a version that names the recipient: `perunml agreement propose`.",
)
OUTPUT_HELD = rule(
    "output_held",
    Kind.HELD,
    "An output waits for the approval of a party that the agreement names.",
    "The parties named approve it: `perunml output approve`.",
)
OWNER_CONDITION = rule(
    "owner_condition",
    Kind.AGREEMENT,
    "An owner's condition on its asset is not met; what it says is told to that owner alone.",
    "The asset's owner looks at it and may drop it: `perunml why`, `perunml condition list`.",
)
CUSTODY_WEAK = rule(
    "custody_weak",
    Kind.EVIDENCE,
    "Who keeps the manager's root key is not what the profile admits: whoever has it has every key of the manager, whatever "
    "its evidence shows.",
    "The manager's operator makes one whose root key a TPM or a TEE keeps (`perunml manager init --custody tpm`), or the party "
    "writes in its ManagerProfile what it admits.",
)
HISTORY_INCONSISTENT = rule(
    "history_inconsistent",
    Kind.INTEGRITY,
    "An entry of the ledger records what the documents signed by the parties did not allow, or names a document that does not say so.",
    "The party keeps the export, which the manager's key signed, and shows it to the others: `perunml audit verify` names the entry.",
)
