"""The rules of sealed assets."""

from perunml.wire.rules import Kind, rule

CHUNK_ALTERED = rule(
    "chunk_altered",
    Kind.INTEGRITY,
    "A sealed chunk does not open: its bytes were altered, swapped or moved, or the key is another asset's.",
    "The party fetches the blob again; if it stays so, the owner seals and pushes again: `perunml seal`, `perunml push`.",
)
TREE_MISMATCH = rule(
    "tree_mismatch",
    Kind.INTEGRITY,
    "The ciphertext's Merkle root is not the manifest's.",
    "The party fetches the asset again; if it stays so, the owner pushes again: `perunml push` (in place of what lies in a bucket: "
    "`perunml push --replace`).",
)
BLOB_MISSING = rule(
    "blob_missing",
    Kind.INTEGRITY,
    "A blob that the manifest lists is not in the store.",
    "The owner pushes it again: `perunml push`.",
)
BLOB_TRUNCATED = rule(
    "blob_truncated",
    Kind.INTEGRITY,
    "A blob has another size than the manifest says.",
    "The owner pushes it again: `perunml push` goes on where it was interrupted.",
)
BLOB_EXISTS = rule(
    "blob_exists",
    Kind.INTEGRITY,
    "A blob of this id is there already; blobs are written once and never changed.",
    "The owner seals again (`perunml seal`): each sealing makes fresh ids.",
)
MANIFEST_INVALID = rule(
    "manifest_invalid",
    Kind.INTEGRITY,
    "A manifest, or the sealed index of its files, is not of format v1 or contradicts itself.",
    "The owner seals again with a version of Perun that writes format v1: `perunml seal`.",
)
PATH_REFUSED = rule(
    "path_refused",
    Kind.USAGE,
    "A file's name is not portable and safe (absolute, '..', NUL, control characters, too long), or the source holds a "
    "symbolic link or special file.",
    "The owner renames or removes the file that the message names, then seals again: `perunml seal`.",
)
DISK_FULL = rule(
    "disk_full",
    Kind.LIMIT,
    "There is no room left where the bytes should go; nothing half-written was registered.",
    "Whoever administers the machine makes room; then the same is done again.",
)
WRAP_MISSING = rule(
    "wrap_missing",
    Kind.INTEGRITY,
    "The wrapped keys hold no wrap for this receiving key.",
    "The owner wraps the data key to it: `perunml push` does.",
)
FORMAT_REFUSED = rule(
    "output_format_refused",
    Kind.INTEGRITY,
    "A file is not of its declared format, or is of one that runs code when it is read (pickle).",
    "The code's owner writes the declared format: safetensors, pt2, onnx, json or csv.",
)
OUTPUT_TOO_LARGE = rule(
    "output_too_large",
    Kind.LIMIT,
    "An output is larger than its max_size.",
    "The code's owner writes less, or the parties agree to more: `perunml agreement propose`.",
)
CHECKPOINT_TOO_LARGE = rule(
    "checkpoint_too_large",
    Kind.LIMIT,
    "What lies in PERUNML_CHECKPOINTS is more than the agreement allows in one checkpoint; the one before stays the last.",
    "The code's owner keeps fewer or smaller files there, or the parties agree to more: `perunml agreement propose`.",
)
FILE_MISSING = rule(
    "file_missing",
    Kind.USAGE,
    "An asset, or a job's inputs, have no file of this name.",
    "Whoever wrote the code names one that is there: `perunml asset show NAME`.",
)
NO_RECORDS = rule(
    "no_records",
    Kind.USAGE,
    "A file is not what is read record by record: a .npy array of numbers, rows first, or records of one length.",
    "Whoever wrote the code names the file's records as they are, or its owner seals it anew: `perunml seal`.",
)
READ_ONLY = rule(
    "read_only",
    Kind.USAGE,
    "A sealed asset is read through its views; it is not written.",
    "The owner seals the next version: `perunml seal`.",
)
STORE_INVALID = rule(
    "store_invalid",
    Kind.USAGE,
    "A store's address, bucket, prefix, region or file of credentials is not of its form; plain http is for loopback alone.",
    "The manager's operator gives it as docs/cli.md says: `perunml manager store add`.",
)
STORE_UNSUPPORTED = rule(
    "store_unsupported",
    Kind.USAGE,
    "The part of Perun that talks to S3-compatible stores is not installed here.",
    "Whoever administers the machine installs it (pip install perunml[s3]); then `perunml manager run` again.",
)
STORE_UNREACHABLE = rule(
    "store_unreachable",
    Kind.UNREACHABLE,
    "A bucket's service does not answer, breaks off, or answers with faults of its own, also after several tries.",
    "The manager's operator looks after the store (`perunml manager store list`); then the same is done again: an interrupted "
    "`perunml push` goes on, an interrupted run is submitted again (`perunml job submit`).",
)
STORE_REFUSED = rule(
    "store_refused",
    Kind.UNREACHABLE,
    "A bucket is not there, or its service does not let in whoever shows these credentials.",
    "The manager's operator gives a bucket and credentials that may read, write and list in it: `perunml manager store add`.",
)
