"""The rules of the ground floor: documents, digests, signatures, sealing to a key, signed requests."""

from perunml.wire.rules import Kind, rule

MALFORMED = rule(
    "malformed",
    Kind.USAGE,
    "A document or field is not of its form: wrong JSON or YAML type, duplicate or unknown key, bad digest, key, date, "
    "size or duration, nested too deep or too large.",
    "Whoever wrote it corrects it; the message names the field.",
)
BAD_SIGNATURE = rule(
    "bad_signature",
    Kind.INTEGRITY,
    "A signature does not verify under the key that should have made it.",
    "The signer signs the very bytes again with the key that the agreement or the pin names.",
)
WRONG_PAYLOAD_TYPE = rule(
    "wrong_payload_type",
    Kind.INTEGRITY,
    "A signed document is of another type than the one asked for.",
    "The sender sends the document that belongs here.",
)
UNSEAL_FAILED = rule(
    "unseal_failed",
    Kind.INTEGRITY,
    "Bytes sealed to a key, or under a passphrase, do not open: another key, another context, or altered bytes.",
    "The sender seals again to the key now in use (`perunml push`); for a passphrase, the caller types the right one.",
)
REQUEST_UNSIGNED = rule(
    "request_unsigned",
    Kind.AGREEMENT,
    "A request carries no valid RFC 9421 signature over method, authority, path, query and body digest, or its key is "
    "not known here.",
    "The caller signs with its identity key; `perunml id show` prints it.",
)
REQUEST_STALE = rule(
    "request_stale",
    Kind.AGREEMENT,
    "A signed request is outside its time window, or its nonce was seen before.",
    "The caller sends it again, newly signed; check that both clocks are right.",
)
ANSWER_INCOMPLETE = rule(
    "answer_incomplete",
    Kind.INTEGRITY,
    "A service's answer lacks its last chunk, or has chunks after it.",
    "The client asks again (`perunml infer`); when it happens twice, somebody on the way cuts answers.",
)
