"""Evidence in files, for auditors: reads them and hands their bytes to `evidence.offline`. Asks nobody."""

from __future__ import annotations

import stat
from pathlib import Path

from perunml.attesters import snp_table
from perunml.client.codes import LOCAL_FILE
from perunml.client.documents import read_baseline
from perunml.evidence import pem
from perunml.evidence.baseline import Baseline
from perunml.evidence.offline.check import TpmFiles, check_event_log, check_ima, check_tpm
from perunml.evidence.offline.dcap import DcapFiles, check_dcap, read_bundle
from perunml.evidence.offline.findings import Checked
from perunml.evidence.offline.nvidia import NvidiaFiles, check_nvidia, check_rim
from perunml.evidence.offline.snp import SnpFiles, check_snp
from perunml.wire.errors import PerunError, refuse

MAX_FILE = 256 * 1024 * 1024 + 1
"""Bytes read of one file: one more than the longest log that is judged."""
MAX_AUTHORITIES = 4096
"""Files of a folder of certificates; the vendors' known ones are some hundreds."""

__all__ = [
    "Checked", "DcapFiles", "NvidiaFiles", "SnpFiles", "TpmFiles", "check_dcap", "check_event_log", "check_ima", "check_nvidia", "check_rim",
    "check_snp", "check_tpm", "read_amd_certificates", "read_authorities", "read_bundle", "read_dcap", "read_evidence", "read_files",
    "read_profile",
]  # fmt: skip


def read_evidence(path: Path) -> bytes:
    """At most `MAX_FILE` bytes of a file. Raises `UsageError` (local_file)."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE)
    except OSError as exc:
        raise refuse(LOCAL_FILE, exc.strerror or type(exc).__name__, seen=str(path)) from None


def read_files(folder: Path) -> list[bytes]:
    """The regular files of a folder, by name, but those that are too large to be certificates or manifests. Raises `UsageError`
    (local_file)."""
    try:
        found = []
        for path in sorted(folder.iterdir())[:MAX_AUTHORITIES]:
            about = path.stat()
            if stat.S_ISREG(about.st_mode) and about.st_size <= pem.MAX_FILE:
                found.append(path.read_bytes())
    except OSError as exc:
        raise refuse(LOCAL_FILE, exc.strerror or type(exc).__name__, seen=str(exc.filename or folder)) from None
    return found


def read_authorities(folder: Path) -> list[bytes]:
    """The files of a folder that may be certificates, by name; what is none of them is of no use and does no harm. A folder
    without any trusts nobody. Raises `UsageError` (local_file)."""
    return [data for data in read_files(folder) if pem.is_pem(data) or data.startswith(b"\x30")]


def read_amd_certificates(folder: Path) -> list[bytes]:
    """The certificates (DER) in a folder's files: PEM, several behind one another too, DER, and the table that a hypervisor hands
    out beside a report. What is none of them is of no use and does no harm. Raises `UsageError` (local_file)."""
    found: list[bytes] = []
    for data in read_files(folder):
        try:
            known = pem.is_pem(data) or data.startswith(b"\x30")
            found += pem.split(data) if known else snp_table.certificates(data)
        except PerunError:
            continue
    return found


def read_dcap(path: Path) -> list[bytes]:
    """Intel's collateral in a file: an item, or all items of a bundle of `perunml collateral bundle`, whoever signed that: each
    item bears its vendor's signatures. Raises `UsageError` (local_file, malformed), `IntegrityError` (wrong_payload_type)."""
    data = read_evidence(path)
    if b'"payloadType"' not in data:
        return [data]
    from perunml.client.endorsed import read_collateral

    return list(read_collateral(data).dcap)


def read_profile(path: Path) -> Baseline:
    """The baseline in a YAML or JSON file. Raises `UsageError` (malformed, local_file)."""
    return read_baseline(read_evidence(path))
