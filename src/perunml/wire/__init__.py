"""Ground floor: canonical JSON, DSSE envelopes, HPKE, identities, digests, signed requests, the tree of errors. No I/O."""
