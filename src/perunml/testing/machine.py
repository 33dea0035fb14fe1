"""A machine with a software TPM in a process of its own, and an IMA log built in user space.

The firmware's and the kernel's part is imitated: a boot log's events go into PCRs 0 to 9 and 11, each "loaded" file becomes
a line of the log and an extend of PCR 10 in every bank. The TPM is real code with a real EK certificate, but of a CA in
the machine's folder: a manager takes it for `simulated`, and only where it was given that CA with `--simulated-ek-root`.

As a process of its own: ``python -m perunml.testing.machine FOLDER [FILE…]`` prints a line of JSON (tcti, ima_log,
event_log, cmdline, roots), then takes line commands on stdin and answers each with a line of JSON: ``measure PATH``,
``extend PCR HEX``, ``baseline``, ``quit``. It ends with its stdin.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from perunml.attesters.esys import open_tpm
from perunml.evidence.baseline import Baseline
from perunml.testing.bootlog import Boot, boot, boot_rules
from perunml.testing.imalog import ImaLine, boot_aggregate, ima_line
from perunml.wire.errors import PerunError

BOOT_PCRS = range(10)
FIRMWARE_PCRS = range(3)
"""Given by value in the machine's baseline; what follows is judged by the boot log's events."""
BOOTS = Boot()
IMA_PCR = 10
START_SECONDS = 10.0
"""Longest wait for the software TPM to listen; it takes some 20 ms."""
_PR_SET_PDEATHSIG = 1

_LOCALCA = """statedir = {ca}
signingkey = {ca}/signkey.pem
issuercert = {ca}/issuercert.pem
certserial = {ca}/certserial
"""
_OPTIONS = """--platform-manufacturer Perun
--platform-version 1
--platform-model simulated
"""
_SETUP = """create_certs_tool = {tool}
create_certs_tool_config = {folder}/localca.conf
create_certs_tool_options = {folder}/localca.options
active_pcr_banks = {banks}
"""


class SimulatedMachine:
    """A context manager: entering powers the machine on, leaving shuts it down in order. `boot` measures.

    folder  keeps the TPM's state and its CA; the same folder is the same machine, one reset later
    banks   the PCR banks that are allocated
    """

    def __init__(self, folder: Path, *, banks: Sequence[str] = ("sha256",), die_with_parent: bool = False) -> None:
        self.folder = folder.resolve()
        self.banks = tuple(banks)
        self.ima_log = self.folder / "binary_runtime_measurements"
        self.event_log = self.folder / "binary_bios_measurements"
        self.cmdline = self.folder / "cmdline"
        self.tcti = ""
        self._die_with_parent = die_with_parent
        self._process: subprocess.Popen[bytes] | None = None
        self._measured: dict[str, set[str]] = {}

    @property
    def roots(self) -> list[Path]:
        """The local CA: its issuer and its root, PEM."""
        return [self.folder / "ca" / name for name in ("issuercert.pem", "swtpm-localca-rootca-cert.pem")]

    @property
    def pid(self) -> int:
        """The software TPM's process id."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> SimulatedMachine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Power on: the TPM counts a reset, its PCRs are zero, the IMA log is empty."""
        if self._process is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (self.folder / "tpm" / "tpm2-00.permall").exists():
            manufacture(self.folder, self.banks)
        self.ima_log.write_bytes(b"")
        self._measured = {}
        for _ in range(20):  # a port may be taken between choosing and using it
            if self._listen(20000 + 2 * secrets.randbelow(6000)):
                return
        raise RuntimeError("the software TPM does not start")

    def stop(self) -> None:
        """Shut the TPM down in order, so that its clock stays safe, and end its process by its id."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            with contextlib.suppress(PerunError), open_tpm(self.tcti) as tpm:
                tpm.shutdown()
            process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def reboot(self, files: Iterable[Path] = ()) -> None:
        """Shut down, start, boot."""
        self.stop()
        self.start()
        self.boot(files)

    def boot(self, files: Iterable[Path] = ()) -> None:
        """What firmware, kernel and IMA would do: the boot log's events, boot_aggregate, a line for each file."""
        log = boot(BOOTS, self.banks, locality=0)  # the TPM's process starts it from locality 0
        self.event_log.write_bytes(log.encoded)
        self.cmdline.write_text(BOOTS.cmdline + "\n")
        with open_tpm(self.tcti) as tpm:
            for event in log.events:
                tpm.extend(event.index, event.digests)
            values = tpm.read_pcrs(self.banks[0], list(BOOT_PCRS))
        self._log(boot_aggregate([values[i] for i in BOOT_PCRS], self.banks[0]))
        for path in files:
            self.measure(path)

    def measure(self, path: Path) -> None:
        """One more file is loaded, an agreed one or an evil one."""
        digest = hashlib.sha256(path.read_bytes()).digest()
        self._measured.setdefault(str(path), set()).add("sha256:" + digest.hex())
        self._log(ima_line(os.fsencode(path), digest))

    def extend(self, pcr: int, data: bytes) -> None:
        """Extend a PCR by the hash of `data`, outside of any log."""
        with open_tpm(self.tcti) as tpm:
            tpm.extend(pcr, {bank: hashlib.new(bank, data).digest() for bank in self.banks})

    def baseline(self) -> Baseline:
        """The state that it booted into and the files of now, as parties would agree on it: the firmware by its PCRs, what the
        firmware started by the boot log."""
        with open_tpm(self.tcti) as tpm:
            pcrs = {bank: tpm.read_pcrs(bank, list(FIRMWARE_PCRS)) for bank in self.banks}
        files = {path: frozenset(digests) for path, digests in self._measured.items()}
        return Baseline(pcrs, files, boot_rules(BOOTS, self.banks[0]))

    def _log(self, line: ImaLine) -> None:
        # as the kernel: first the list, then the PCR, so that a log read after a quote has what the quote proves
        descriptor = os.open(self.ima_log, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line.encoded)
        finally:
            os.close(descriptor)
        with open_tpm(self.tcti) as tpm:
            tpm.extend(IMA_PCR, {bank: line.extend_value(bank) for bank in self.banks})

    def _listen(self, port: int) -> bool:
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder / 'tpm'}"]
        command += ["--server", f"type=tcp,port={port},bindaddr=127.0.0.1"]
        command += ["--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1"]
        command += ["--flags", "not-need-init,startup-clear"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent if self._die_with_parent else None,
        )
        end = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port + 1), 1):
                self._process, self.tcti = process, f"swtpm:host=127.0.0.1,port={port}"
                return True
            time.sleep(0.01)
        if process.poll() is None:
            process.kill()
        process.wait()
        return False


def manufacture(folder: Path, banks: Sequence[str] = ("sha256",)) -> list[Path]:
    """Make a software TPM's state in `folder`/tpm, with EK certificates of a CA in `folder`/ca: its issuer and its root, PEM.
    Nothing outside of the folder is touched. Raises `RuntimeError`."""
    for name in ("ca", "tpm"):
        (folder / name).mkdir(exist_ok=True, mode=0o700)
    names = {"folder": folder, "ca": folder / "ca", "banks": ",".join(banks), "tool": _tool()}
    for file, text in (("localca.conf", _LOCALCA), ("localca.options", _OPTIONS), ("setup.conf", _SETUP)):
        (folder / file).write_text(text.format(**names))
    command = ["swtpm_setup", "--tpm2", "--tpm-state", str(folder / "tpm"), "--create-ek-cert", "--overwrite"]
    made = subprocess.run(
        [*command, "--config", str(folder / "setup.conf")], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise RuntimeError(f"swtpm_setup failed: {made.stdout}{made.stderr}")
    return [folder / "ca" / name for name in ("issuercert.pem", "swtpm-localca-rootca-cert.pem")]


def _tool() -> str:
    found = shutil.which("swtpm_localca")
    if found is None:
        raise RuntimeError("swtpm_localca is not installed (Debian: swtpm-tools)")
    return found


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def serve(machine: SimulatedMachine, lines: Iterable[str], say: Callable[[Any], None]) -> None:
    """Take line commands until ``quit`` or the end, answering each."""
    for line in lines:
        command, _, rest = line.strip().partition(" ")
        try:
            if command == "quit":
                return
            if command == "measure":
                machine.measure(Path(rest))
                say({"ok": True})
            elif command == "extend":
                pcr, _, data = rest.partition(" ")
                machine.extend(int(pcr), bytes.fromhex(data))
                say({"ok": True})
            elif command == "baseline":
                say(machine.baseline().as_json())
            else:
                say({"ok": False, "error": f"no such command: {command}"})
        except (OSError, ValueError, PerunError) as exc:
            say({"ok": False, "error": str(exc)})


def main(arguments: Sequence[str]) -> int:
    """See the module's docstring."""
    if not arguments:
        sys.stderr.write("usage: python -m perunml.testing.machine FOLDER [FILE…]\n")
        return 2

    def say(value: Any) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with SimulatedMachine(Path(arguments[0]), die_with_parent=True) as machine:
        machine.boot(Path(name) for name in arguments[1:])
        roots = [str(root) for root in machine.roots]
        logs = {name: str(getattr(machine, name)) for name in ("ima_log", "event_log", "cmdline")}
        say({"tcti": machine.tcti, **logs, "roots": roots})
        serve(machine, sys.stdin, say)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
