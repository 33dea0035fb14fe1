"""NVIDIA's two roots, by the SHA-256 of their certificates (DER). Certificates travel; the pin does not."""

from __future__ import annotations

DEVICE_ROOTS = {
    "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48": "NVIDIA Device Identity CA",
}
"""What a device's chain of five certificates ends in."""

RIM_ROOTS = {
    "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1": "NVIDIA CoRIM signing Root CA",
}
"""What the chain in a reference integrity manifest ends in."""
