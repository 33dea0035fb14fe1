"""A machine with a software TPM and an IMA log built in user space. Tests, demo and quickstart only."""

from __future__ import annotations
