"""Valid TPM evidence without a TPM, made with keys of our own, and then broken. Tests, demo and benches only."""

from __future__ import annotations
