"""The root that Intel's certificates lead to. dcap-qvl holds it too; this is the one that is told to it."""

from __future__ import annotations

import hashlib

INTEL_SGX_ROOT_SHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
"""SHA-256 of the DER of "Intel SGX Root CA" (valid 2018-05-21 to 2049-12-31), as Intel publishes it."""


def is_intel(root: bytes) -> bool:
    """Whether this certificate (DER) is Intel's root."""
    return hashlib.sha256(root).hexdigest() == INTEL_SGX_ROOT_SHA256
