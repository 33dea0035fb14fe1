"""The rules of agreements: form beyond single fields, versions, approvals, suspensions."""

from perunml.wire.rules import Kind, rule

INCONSISTENT = rule(
    "agreement_inconsistent",
    Kind.USAGE,
    "Parts of an agreement do not fit together: an unknown party, asset, host or job is named, a key stands twice, a "
    "recipient has no receiving key, outputs feed each other in a circle.",
    "Whoever writes the agreement corrects it; `perunml agreement check FILE` names each place.",
)
FORMAT_REFUSED = rule(
    "format_refused",
    Kind.USAGE,
    "An output is declared in a format that is not read safely (pickle and all that contain it) or not known.",
    "Whoever writes the agreement declares pt2, safetensors, onnx, json or csv; `perunml agreement check FILE` looks.",
)
VERSION_ROLLBACK = rule(
    "version_rollback",
    Kind.AGREEMENT,
    "A version of an agreement does not follow the newest one: an older version, the same number again, or another "
    "predecessor.",
    "The proposer starts from the newest version (`version` one higher, `predecessor` its digest): `perunml agreement propose`.",
)
APPROVAL_MISMATCH = rule(
    "approval_mismatch",
    Kind.AGREEMENT,
    "An approval is for another agreement, another predecessor, another manager, or a party that the agreement does not "
    "name.",
    "The party approves the very document that is proposed: `perunml agreement approve`.",
)
APPROVAL_EXPIRED = rule(
    "approval_expired",
    Kind.PENDING,
    "An approval is past its own end.",
    "The party approves again: `perunml agreement approve`.",
)
NOT_ON_BOARD = rule(
    "not_on_board",
    Kind.AGREEMENT,
    "The key that signed is not one that decides for this party, or the signatures do not make up its board.",
    "Keys of the party's board sign (`perunml agreement approve`); the agreement's `approve` names them.",
)
CHANGE_OUT_OF_ORDER = rule(
    "change_out_of_order",
    Kind.AGREEMENT,
    "A suspension or its lifting does not follow the newest change of that asset: it is old, or was made for another time.",
    "The signer signs a change that names the newest state as `previous`, as `perunml asset suspend` and `perunml asset lift` do.",
)
TOO_MANY_CONDITIONS = rule(
    "too_many_conditions",
    Kind.LIMIT,
    "An asset has as many conditions as can be looked at in every decision.",
    "The owner's board drops some: `perunml condition drop`.",
)
SIGNATURE_FORM = rule(
    "signature_form",
    Kind.USAGE,
    "A signature that was made elsewhere is not of its key's form.",
    "The signer signs the very bytes that `perunml agreement message` wrote: Ed25519 as they are, P-384 with SHA-384.",
)
ALREADY_IN_FORCE = rule(
    "already_in_force",
    Kind.AGREEMENT,
    "An approval can be taken back only while its agreement is not in force.",
    "The party proposes a version that narrows, puts a condition on its asset or suspends it: `perunml asset suspend`.",
)
NOTHING_TO_WITHDRAW = rule(
    "nothing_to_withdraw",
    Kind.USAGE,
    "This key has no approval of the agreement that counts.",
    "The party looks at who has approved: `perunml agreement show`.",
)
SHARE_MISMATCH = rule(
    "share_mismatch",
    Kind.AGREEMENT,
    "A share of an output's key is for another manager or agreement, of a party that holds none, or of a manager that the agreement does "
    "not name in `recovery.managers`.",
    "The party gives its share for the agreement in force: `perunml recovery give`.",
)
