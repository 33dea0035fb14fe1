"""NVIDIA GPUs and NVSwitches in confidential-computing mode: SPDM reports and reference manifests."""
