"""The rules of the ledger: proofs, checkpoints, entries, receipts."""

from perunml.wire.rules import Kind, rule

BAD_INCLUSION_PROOF = rule(
    "bad_inclusion_proof",
    Kind.INTEGRITY,
    "A proof does not show that an entry is in the ledger under the checkpoint's root.",
    "The manager sends the proof for this entry and this checkpoint; if it cannot, the entry was never in the ledger.",
)
BAD_CONSISTENCY_PROOF = rule(
    "bad_consistency_proof",
    Kind.INTEGRITY,
    "A proof does not show that a newer checkpoint only adds to an older one.",
    "The party keeps both checkpoints and shows them to the others: the manager's history was altered or the proof is wrong.",
)
LEDGER_ROLLBACK = rule(
    "ledger_rollback",
    Kind.INTEGRITY,
    "A checkpoint covers fewer entries than one seen before.",
    "The manager's operator brings back the newest ledger (`perunml manager restore`); nobody accepts less than was shown before.",
)
SPLIT_VIEW = rule(
    "split_view",
    Kind.INTEGRITY,
    "Two checkpoints of one ledger have the same size and different roots.",
    "The party keeps both, signed as they are: they prove that the manager showed two histories. Nobody uses it any more.",
)
BAD_CHECKPOINT = rule(
    "bad_checkpoint",
    Kind.INTEGRITY,
    "A checkpoint or signed note is not of its form, is another ledger's, or lacks the signature it needs.",
    "The party asks the pinned manager for its checkpoint again (`perunml ledger verify`), and looks at what stands in between.",
)
BAD_TILE = rule(
    "bad_tile",
    Kind.INTEGRITY,
    "A ledger tile, entry bundle or stored node is missing or not of its form.",
    "The manager's operator brings back the newest copy: `perunml manager restore`; of an export, the party makes another one: `perunml audit export`.",
)
BAD_LEAF = rule(
    "bad_leaf",
    Kind.INTEGRITY,
    "A ledger leaf does not commit to the entry and salt that are shown for it.",
    "The manager shows the entry and salt that belong to the leaf.",
)
BROKEN_CHAIN = rule(
    "broken_chain",
    Kind.INTEGRITY,
    "An agreement's entries do not link: one is missing, doubled, out of order or another agreement's.",
    "The manager shows all entries of the agreement in order.",
)
BAD_RECEIPT = rule(
    "bad_receipt",
    Kind.INTEGRITY,
    "A receipt is not of its form, or was made by another manager than it names.",
    "Get the receipt again from the pinned manager: `perunml job show`.",
)
