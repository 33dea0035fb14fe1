"""A virtual machine as real as this machine can make one: firmware with Secure Boot and keys of one's own, a software TPM with
an EK certificate, a disk, a network card. Emulated where there is no KVM, at some tenth of a processor's speed.

Its console's lines are kept with the second at which they came: the agent writes its events there, one JSON object a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perunml.testing.machine import manufacture

FIRMWARE = Path("/usr/share/OVMF")
CODE, VARIABLES = FIRMWARE / "OVMF_CODE_4M.secboot.fd", FIRMWARE / "OVMF_VARS_4M.fd"
PROGRAMS = ("qemu-system-x86_64", "swtpm", "swtpm_setup", "virt-fw-vars")
MEMORY = "1536"  # MiB
ENROL, SERVICES = 7440, 7450
BOOT_SECONDS = 240
STOP_SECONDS = 60


def missing() -> str:
    """What a virtual machine needs and this one lacks, or nothing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), str(Path(os.sys.executable).parent)])  # type: ignore[attr-defined]
    lacks = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    lacks += [str(file) for file in (CODE, VARIABLES) if not file.exists()]
    return ", ".join(lacks)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def own_keys(keys: Path, target: Path, *, secure_boot: bool = True) -> None:
    """The firmware's variables with these keys (images/keys.sh) as platform key, key exchange key and db, nothing of a vendor's."""
    owner = (keys / "owner").read_text().strip()
    tool = shutil.which("virt-fw-vars", path=str(Path(os.sys.executable).parent)) or "virt-fw-vars"  # type: ignore[attr-defined]
    command = [tool, "--input", str(VARIABLES), "--output", str(target)]
    if secure_boot:
        for option, name in (("--set-pk", "PK"), ("--add-kek", "KEK"), ("--add-db", "db")):
            command += [option, owner, str(keys / f"{name}.crt")]
        command += ["--secure-boot"]
    subprocess.run(command, check=True, capture_output=True)


@dataclass
class Vm:
    """`folder` keeps the TPM, its CA and the firmware's variables: the same folder is the same machine."""

    folder: Path
    disk: Path
    data: Path
    variables: Path
    accelerate: bool = False
    lines: list[tuple[float, str]] = field(default_factory=list)
    enrol_port: int = field(default_factory=free_port)
    services_port: int = field(default_factory=free_port)
    forwards: dict[int, int] = field(default_factory=dict)  # port of this machine -> port of the virtual one
    _reader: threading.Thread | None = None
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # on memory: a disk that is busy would make the TPM late, and the kernel waits less than a second for it
        self.tpm = Path(f"/dev/shm/perunml-vm-{os.getpid()}-{self.folder.name}")
        if not self.tpm.exists():
            self.tpm.mkdir(mode=0o700)
            self.issuer, self.root = manufacture(self.tpm)
        else:
            self.issuer, self.root = (self.tpm / "ca" / n for n in ("issuercert.pem", "swtpm-localca-rootca-cert.pem"))
        if not (self.folder / "vars.fd").exists():
            shutil.copyfile(self.variables, self.folder / "vars.fd")

    def start(self) -> None:
        """Power on."""
        self.started = time.monotonic()
        self.lines = []
        control, qmp = self.folder / "tpm.sock", self.folder / "qmp.sock"
        swtpm = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.tpm / 'tpm'}", "--ctrl", f"type=unixio,path={control}"]  # fmt: skip
        self._run([*swtpm, "--terminate"], subprocess.DEVNULL)
        _wait_until(control.exists, 10, "the software TPM")
        fast = ["-accel", "kvm", "-cpu", "host"] if self.accelerate else ["-accel", "tcg,thread=multi", "-cpu", "max"]
        ports = {self.enrol_port: ENROL, self.services_port: SERVICES, **self.forwards}
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in ports.items())
        qemu = [
            "qemu-system-x86_64", "-machine", "q35,smm=on", "-smp", "2", "-m", MEMORY, *fast,
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-global", "driver=cfi.pflash01,property=secure,value=on",
            "-drive", f"if=pflash,format=raw,unit=0,file={CODE},readonly=on",
            "-drive", f"if=pflash,format=raw,unit=1,file={self.folder / 'vars.fd'}",
            "-drive", f"if=none,id=d,format=raw,file={self.disk},readonly=on",
            "-device", "virtio-blk-pci,drive=d,bootindex=0",
            "-drive", f"if=none,id=e,format=raw,file={self.data}", "-device", "virtio-blk-pci,drive=e",
            "-netdev", f"user,id=n{forwards}", "-device", "virtio-net-pci,netdev=n,romfile=",
            "-device", "virtio-rng-pci",
            "-chardev", f"socket,id=t,path={control}", "-tpmdev", "emulator,id=tp,chardev=t", "-device", "tpm-crb,tpmdev=tp",
            "-qmp", f"unix:{qmp},server=on,wait=off", "-serial", "stdio",
        ]  # fmt: skip
        machine = self._run(qemu, subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, args=(machine,), daemon=True)
        self._reader.start()

    def wait_for(self, timeout: float = BOOT_SECONDS, /, **members: Any) -> dict[str, Any]:
        """The first event of the agent with these members (`...`: has it). Raises `TimeoutError` with the console's last lines."""

        def found() -> dict[str, Any] | None:
            for value in self.events:
                if all(name in value and wanted in (..., value[name]) for name, wanted in members.items()):
                    return value
            return None

        return self._wait(found, timeout, str(members))

    def wait_for_text(self, text: str, timeout: float = BOOT_SECONDS) -> str:
        """The first line of the console that holds `text`."""
        return self._wait(lambda: next((line for _, line in self.lines if text in line), None), timeout, text)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the agent said, each with the second since power on (`at`)."""
        found = []
        for at, line in list(self.lines):
            with contextlib.suppress(ValueError):
                value = json.loads(line[line.index("{") :])
                if isinstance(value, dict):
                    found.append({**value, "at": at})
        return found

    @property
    def running(self) -> bool:
        return bool(self._processes) and self._processes[-1].poll() is None

    def press_power(self) -> None:
        """ACPI's button: the machine shuts down by itself."""
        self._qmp("system_powerdown")

    def wait_off(self, timeout: float = STOP_SECONDS) -> None:
        self._processes[-1].wait(timeout)

    def kill(self) -> None:
        """As a power cut."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                assert self._reader is not None
                self._reader.join()
                process.stdout.close()
        self._processes.clear()
        for name in ("tpm.sock", "qmp.sock"):
            (self.folder / name).unlink(missing_ok=True)

    def scrap(self) -> None:
        """Off, and the TPM with it."""
        self.kill()
        shutil.rmtree(self.tpm, ignore_errors=True)

    def log(self) -> str:
        return "".join(f"{at:7.1f} {line}\n" for at, line in self.lines)

    def _run(self, command: Sequence[str], out: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        self._processes.append(process)
        return process

    def _read(self, machine: subprocess.Popen[bytes]) -> None:
        assert machine.stdout is not None
        for raw in machine.stdout:
            with self._news:
                self.lines.append((time.monotonic() - self.started, raw.decode(errors="replace").rstrip()))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _wait(self, look: Any, timeout: float, what: str) -> Any:
        end = time.monotonic() + timeout
        with self._news:
            while (value := look()) is None:
                if time.monotonic() > end or not self.running:
                    state = "took too long" if self.running else "is off"
                    raise TimeoutError(f"{self.folder.name} {state} before {what}\n" + self.log()[-4000:])
                self._news.wait(0.5)
        return value

    def _qmp(self, command: str) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self.folder / "qmp.sock"))
            stream = sock.makefile("rw")
            stream.readline()
            for each in ("qmp_capabilities", command):
                stream.write(json.dumps({"execute": each}) + "\n")
                stream.flush()
                stream.readline()


def _wait_until(condition: Any, timeout: float, what: str) -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} does not start")
        time.sleep(0.02)
