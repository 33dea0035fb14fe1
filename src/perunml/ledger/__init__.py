"""What happened: Merkle log, checkpoints, proofs. Pure."""
