"""What may happen: documents, schema, boards, approvals, review. Pure.

An agreement is a JSON document (YAML for people). Its name is the digest of the document as written, in RFC 8785 form,
defaults not filled in. `document` reads it, `schema` and its neighbours say its form, `checks` how its parts must fit,
`approvals` when it is in force, `changes` when an asset is suspended, `flows` what reaches what, `review` all of it in words.
"""
