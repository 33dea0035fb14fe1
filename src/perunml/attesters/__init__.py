"""Collects evidence from this machine's devices (`evidence` judges, `attesters` collect)."""
