"""TPM 2.0 evidence: quotes, keys, EK certificates, credentials, IMA logs. Pure."""
