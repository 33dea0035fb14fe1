"""Ground floor: canonical JSON, DSSE envelopes, HPKE, identities, digests, signed requests, errors. No I/O."""
