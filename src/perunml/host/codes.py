"""The rules of the machine's side: what a host refuses, and how a job can fail."""

from perunml.wire.rules import Kind, rule

NOT_ENROLLED = rule(
    "not_enrolled",
    Kind.USAGE,
    "The agent's folder holds no certificate of this manager for this machine, or it is over.",
    "The operator enrols the machine: `perunml host enrol`.",
)
ENROLMENT_STRANGE = rule(
    "enrolment_strange",
    Kind.AGREEMENT,
    "Somebody other than the operator whom a machine's settings name asked it to enrol, or nothing was begun that could go on.",
    "The machine's operator enrols it with the key that its settings name: `perunml host enrol --at HOST:PORT`.",
)
ENROLMENT_ADDRESS = rule(
    "enrolment_address",
    Kind.USAGE,
    "The address at which a machine is to be enrolled is not HOST:PORT of this machine, or somebody has it already.",
    "The operator gives another address in the machine's settings, `enrol_listen`: `perunml host boot FOLDER`.",
)
INSTALL_CONFLICT = rule(
    "install_conflict",
    Kind.USAGE,
    "A file that `host install` would write is there already and is somebody else's, or was changed since; nothing was written.",
    "The machine's operator moves it away, or makes its content their own, then `perunml host install` again.",
)
HOST_UNFIT = rule(
    "host_unfit",
    Kind.USAGE,
    "This machine lacks something without which no job may run here: root, bubblewrap, user or mount namespaces, seccomp.",
    "The operator mends it; `perunml host doctor` names each thing and its cure.",
)
MEMORY_CAN_SWAP = rule(
    "memory_can_swap",
    Kind.USAGE,
    "Swap is on, and this kernel cannot keep a job's memory out of it.",
    "The operator turns swap off (`swapoff -a`).",
)
MEMORY_SHORT = rule(
    "memory_short",
    Kind.LIMIT,
    "What a job needs unsealed does not fit into this machine's memory.",
    "The operator runs it on a machine with more memory, or the owner seals less.",
)
AGENT_BUSY = rule(
    "agent_busy",
    Kind.USAGE,
    "Another agent works in the same folder.",
    "The host's operator stops the other agent, or gives each its own folder: `perunml host run --folder FOLDER`.",
)
AGENT_GONE = rule(
    "agent_gone",
    Kind.UNREACHABLE,
    "The agent that holds this machine's TPM does not answer its runner, or refused to vouch for what it asked.",
    "The operator looks at the agent's messages; the run can be taken again.",
)
DELIVERY_MISMATCH = rule(
    "delivery_mismatch",
    Kind.INTEGRITY,
    "What the manager delivered is not what was asked for: another run, agreement, manager, asset or machine.",
    "Nothing was used. The manager's operator looks into its log.",
)
LEASE_OVER = rule(
    "lease_over",
    Kind.SUSPENDED,
    "No renewal was accepted before the lease's end, so the run was ended and its keys wiped.",
    "The reasons beside this one say why the manager refused; without any, it did not answer.",
)
CODE_FAILED = rule(
    "code_failed",
    Kind.JOB,
    "The job's own code ended with an error. More does not leave the machine.",
    "The code's owner runs it on data of its own.",
)
OUT_OF_MEMORY = rule(
    "out_of_memory",
    Kind.JOB,
    "The job's code wanted more memory than there is.",
    "The requester asks for less (a smaller batch: `perunml job submit`), or the operator takes a machine with more.",
)
GPU_OUT_OF_MEMORY = rule(
    "gpu_out_of_memory",
    Kind.JOB,
    "The job's code wanted more memory than its GPU has.",
    "The requester asks for less (a smaller batch: `perunml job submit`), or the operator takes a machine with a larger GPU.",
)
NOT_FINITE = rule(
    "not_finite",
    Kind.JOB,
    "The job's numbers are not finite: its metrics hold NaN or an infinity, or its code raised FloatingPointError.",
    "The code's owner looks at the learning rate and the data's range; the requester asks for other parameters: `perunml job submit`.",
)
OUT_OF_TIME = rule(
    "out_of_time",
    Kind.JOB,
    "The job ran longer than the agreement's `wall` limit.",
    "The code's owner makes it shorter, or the parties agree on a longer limit: `perunml agreement propose`.",
)
KILLED = rule(
    "killed",
    Kind.JOB,
    "The job was ended from outside: its agent stopped, or its lease was over.",
    "The reasons beside this one say why and who mends it; a party asks for the run again: `perunml job submit`.",
)
INTERNAL = rule(
    "internal",
    Kind.JOB,
    "The host's own software failed.",
    "The operator reports it with the agent's messages.",
)
OUTPUT_MISSING = rule(
    "output_missing",
    Kind.JOB,
    "The job ended without an output that the agreement declares.",
    "The code's owner writes it to PERUNML_OUT under the declared name.",
)
OUTPUT_UNDECLARED = rule(
    "output_undeclared",
    Kind.JOB,
    "The job wrote something into PERUNML_OUT that the agreement does not declare.",
    "The code's owner writes declared names only, and scratch files to /tmp.",
)
OUTPUT_NOT_A_FILE = rule(
    "output_not_a_file",
    Kind.JOB,
    "An output is a link, a device, a socket, or has more than one name, instead of a plain file.",
    "The code's owner writes a plain file.",
)
METRICS_REFUSED = rule(
    "metrics_refused",
    Kind.JOB,
    "Metrics are not what may leave: an undeclared field, something that is not a finite number, or too many values.",
    "The code's owner writes the declared fields only, each a finite number or a list of them.",
)
