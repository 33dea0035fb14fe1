"""Virtual TPMs of clouds whose attestation key a TEE vouches for."""
