"""What operators do, from Python: a manager's verbs and a host's, beside `Client`, which has the parties'.

from perunml import Client, operators

operators.make_manager("manager/", passphrase, url="https://manager.example:7443", vendor_roots=["vendor.pem"])
with Client.open("~/.perunml", passphrase) as client:
    operators.enrol(client, "host/", "gpu-7", tcti="device:/dev/tpmrm0")
    operators.agent(client.pin, "host/", tcti="device:/dev/tpmrm0").run_forever()

Each function imports its room when it is called: a machine that only runs jobs needs nothing of the manager.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from perunml.api.enrolment import Enrolled
    from perunml.api.pin import Pin
    from perunml.attesters.azure import AzureAttester
    from perunml.attesters.composite import EnrolsByTpm
    from perunml.attesters.detect import Ground
    from perunml.attesters.doctor import Examination
    from perunml.client.client import Client
    from perunml.host.agent import Agent
    from perunml.host.enrol import Beside, SimulatedMachine, TeeMachine, TpmMachine
    from perunml.manager.adopt import Adopted
    from perunml.manager.backup import Backup
    from perunml.manager.custody import Kind
    from perunml.manager.device import Device
    from perunml.manager.server import Server

    Machine = TpmMachine | SimulatedMachine | TeeMachine

__all__ = [
    "admit",
    "agent",
    "backup",
    "custody",
    "doctor",
    "enrol",
    "join_manager",
    "machine",
    "make_manager",
    "manager",
    "measure_key",
    "restore",
    "rotate_intake",
]

PathLike = str | Path
TPM = "device:/dev/tpmrm0"
"""How the system's TPM is reached."""


def make_manager(
    folder: PathLike,
    passphrase: bytes | None,
    *,
    url: str,
    vendor_roots: Sequence[PathLike] = (),
    simulated_ek_roots: Sequence[PathLike] = (),
    demand_revocations: bool = False,
    simulated_tee_roots: Sequence[PathLike] = (),
    collateral_signers: Sequence[str] = (),
    count_in_tpm: bool = False,
    custody: Kind = "passphrase",
    pcrs: Sequence[int] | None = None,
    attester: str = "simulated",
    tcti: str | None = None,
    ima_log: PathLike | None = None,
    event_log: PathLike | None = None,
    cmdline: PathLike | None = None,
    ek_chain: Sequence[PathLike] = (),
) -> str:
    """Make a manager in a new folder; its identity's text. `url` is where parties and hosts will reach it
    (https://host:port); roots are certificates, PEM or DER. TEEs and GPUs under one of `simulated_tee_roots` are simulated;
    `collateral_signers` are the identity keys (their texts) whose bundles of collateral it judges by.

    `custody` keeps its root key: ``passphrase`` (for development: who knows it has all keys), ``tpm`` (in the state of `pcrs`
    that the machine is in now) or ``tee``; the latter two need no passphrase. `attester` makes its evidence: ``simulated``,
    ``tdx``, ``snp``, ``sgx`` or ``tpm``, for which `tcti` and the files are as for `machine`.

    With `count_in_tpm` a counter in the TPM tells an old copy of the folder when it starts: one from before the last few minutes.

    Raises `UsageError` (malformed, folder_in_use, custody_unavailable), `EvidenceRefusal` or `Unreachable` for a TPM that is not there or has
    no EK certificate."""
    from perunml.manager import setup
    from perunml.manager.device import make_custody

    device = _device(attester, tcti, {"ima_log": ima_log, "event_log": event_log, "cmdline": cmdline}, ek_chain)
    return setup.init(
        Path(folder),
        make_custody(custody, device, passphrase, pcrs),
        url=url,
        vendor_roots=list(map(Path, vendor_roots)),
        simulated_ek_roots=list(map(Path, simulated_ek_roots)),
        demand_revocations=demand_revocations,
        device=device,
        simulated_tee_roots=list(map(Path, simulated_tee_roots)),
        collateral_signers=collateral_signers,
        count_in_tpm=count_in_tpm,
    )


def join_manager(
    url: str,
    folder: PathLike,
    passphrase: bytes | None,
    *,
    profile: PathLike,
    baselines: Sequence[PathLike] = (),
    signed_by: Sequence[str] = (),
    count_in_tpm: bool = False,
    custody: Kind = "passphrase",
    pcrs: Sequence[int] | None = None,
    attester: str = "simulated",
    tcti: str | None = None,
    files: dict[str, PathLike | None] | None = None,
    ek_chain: Sequence[PathLike] = (),
    given: dict[str, Sequence[PathLike]] | None = None,
    dry_run: bool = False,
) -> str:
    """Take over, into a new folder, the root key of the manager at `url`, judged by `profile` (`given` as `client.trust.Given.read` takes it); its identity's text. The
    rest is as for `make_manager`, `files` are its three by name. Restoring that manager's backup makes the folder a manager's. With `dry_run` what would be sent is raised
    as `WouldSend`. Raises what `client.trust.examine` and `make_manager` raise, and handover_refused, handover_closed, witnesses_unreachable."""
    from perunml.client.handover import Taker
    from perunml.client.trust import Given, examine, read_profile
    from perunml.manager.device import make_custody
    from perunml.manager.join import join

    device = _device(attester, tcti, files or {}, ek_chain)
    keeper = make_custody(custody, device, passphrase, pcrs)
    wanted = read_profile(Path(profile), list(map(Path, baselines)), signed_by)
    found = examine(
        url, wanted, given=Given.read(**{name: list(map(Path, one)) for name, one in (given or {}).items()})
    )
    with Taker(found.pin, dry_run=dry_run) as manager, tempfile.TemporaryDirectory(prefix="perunml-") as scratch:
        where, origin = Path(scratch) / "new" if dry_run else Path(folder), (*found.custody.origin, found.origin)
        return join(where, manager, keeper, device, origin, count_in_tpm=count_in_tpm)


def admit(folder: PathLike, keys: Iterable[str]) -> None:
    """Let identity keys (their texts) talk to the manager of a folder; it may be running. Raises `UsageError`
    (folder_in_use, malformed)."""
    from perunml.manager import setup

    setup.admit(Path(folder), keys)


def backup(folder: PathLike, target: PathLike, *, progress: Callable[[int, int], None] = lambda *_: None) -> Backup:
    """Copy the manager of a folder, which may be running, into the new file `target`. Raises `UsageError` (folder_in_use), `FileExistsError`."""
    from perunml.manager import backup

    return backup.backup(Path(folder), Path(target), progress)


def restore(source: PathLike, folder: PathLike, *, progress: Callable[[int, int], None] = lambda *_: None) -> Backup:
    """Make a new folder what a manager's was when the backup `source` was written. Raises `UsageError` (folder_in_use), `IntegrityError`
    (backup_damaged)."""
    from perunml.manager import backup

    return backup.restore(Path(source), Path(folder), progress)


def adopt(source: PathLike, folder: PathLike, *, progress: Callable[[int, int], None] = lambda *_: None) -> Adopted:
    """Take the ciphertext of outputs that owners claimed at the manager of `folder` out of a lost manager's backup `source`. Raises
    `UsageError` (nothing_to_adopt), `IntegrityError` (backup_damaged), `LimitReached` (disk_full)."""
    from perunml.manager import adopt as adoption

    return adoption.adopt(Path(folder), Path(source), progress)


def rotate_intake(folder: PathLike, passphrase: bytes | None = None, *, tcti: str | None = None) -> tuple[str, int]:
    """Replace the intake key of the manager of a folder, which is not running; the new key (text) and its generation. Raises as
    `manager`."""
    from dataclasses import replace

    from perunml.manager.config import Config
    from perunml.manager.custody import kind_of
    from perunml.manager.device import make_custody
    from perunml.manager.setup import rotate_intake

    device = Config.load(Path(folder)).device
    device = replace(device, tcti=tcti) if tcti is not None else device
    return rotate_intake(Path(folder), make_custody(kind_of(Path(folder)), device, passphrase))


def custody(folder: PathLike) -> Kind:
    """Who keeps the root key of the manager of a folder: ``passphrase``, ``tpm`` or ``tee``. Raises `UsageError`
    (folder_in_use), `IntegrityError` (state_damaged)."""
    from perunml.manager.config import Config
    from perunml.manager.custody import kind_of

    return kind_of(Config.load(Path(folder)).folder)


def manager(
    folder: PathLike,
    passphrase: bytes | None = None,
    *,
    listen: tuple[str, int] | None = None,
    tcti: str | None = None,
) -> Server:
    """The manager of a folder, bound to its port: `run()` serves until it is told to stop; `start()` and `stop()` do from a
    thread. The passphrase is for a root key that one keeps (`custody`). `listen` is (host, port), port 0 any; by default the
    url's. `tcti` says where the TPM is by now. Raises `UsageError` (folder_in_use), `IntegrityError` (unseal_failed,
    custody_state, custody_elsewhere, state_damaged), `OSError` for the port."""
    from dataclasses import replace
    from urllib.parse import urlsplit

    from perunml.manager.config import Config
    from perunml.manager.custody import kind_of
    from perunml.manager.device import make_custody
    from perunml.manager.server import Server

    config = Config.load(Path(folder))
    device = replace(config.device, tcti=tcti) if tcti is not None else config.device
    parts = urlsplit(config.url)
    host, port = listen or (parts.hostname or "127.0.0.1", parts.port if parts.port is not None else 443)
    return Server(Path(folder), make_custody(kind_of(Path(folder)), device, passphrase), host, port, device=device)


def machine(
    folder: PathLike,
    *,
    tcti: str | None = None,
    ima_log: PathLike | None = None,
    event_log: PathLike | None = None,
    cmdline: PathLike | None = None,
    ek_chain: Sequence[PathLike] = (),
    attester: Sequence[str] = (),
    binder: str = "",
    simulated_machine: bool = False,
    ground: Ground | None = None,
) -> Machine:
    """This machine, as what proves it. `attester` names its roots of trust: ``tpm``, ``tdx``, ``snp`` or ``sgx``, ``gpu``
    beside them, ``azure`` for a confidential VM of that cloud (its virtual TPM and TEE in one), or ``auto`` for whatever is there; `tcti` names a TPM other than the system's, and is enough for one. `binder` is how
    TPM and TEE are shown to be of one machine: ``tpm-key``, or ``pcr`` after `measure_key`. With `simulated_machine` it is a bare key in `folder`, which proves nothing.

    The TPM's logs and the command line are the kernel's by default; `ek_chain` are certificates between the EK's and its
    vendor's root; the folder remembers which TPM it was made for. `ground` is what the machine is seen through, for tests.
    Raises `ValueError` unless either attesters or a simulated machine are said, `UsageError` (no_root_of_trust, tee_other), and
    `EvidenceRefusal` or `Unreachable` for a device that is not there or gives nothing.
    """
    kinds = machine_kinds(tcti, attester, simulated_machine, binder)
    if not kinds:
        from perunml.attesters.simulated import SimulatedAttester

        return SimulatedAttester(Path(folder))
    from perunml.attesters.detect import make

    ima, boot, line = (Path(path) if path is not None else None for path in (ima_log, event_log, cmdline))

    def tpm() -> EnrolsByTpm:
        from perunml.attesters.quoting import QUOTED
        from perunml.attesters.tpm import TpmAttester

        chain, quoted = [Path(path) for path in ek_chain], (*QUOTED, 15) if binder == "pcr" else QUOTED
        made = TpmAttester(tcti or TPM, Path(folder), ima, boot, chain, line, quoted)
        if binder != "tpm-key":
            return made
        from perunml.attesters.beside import BoundTpm

        return BoundTpm(made, tcti or TPM, Path(folder))

    def azure() -> AzureAttester:
        from perunml.attesters.azure import AzureAttester

        return AzureAttester(tcti or TPM, ima, boot, line)

    key = ""
    if binder == "pcr":
        from perunml.attesters.beside import measured_key

        key = measured_key(Path(folder))
    return cast("Machine", make(kinds, tpm, ground, azure, key))


def measure_key(folder: PathLike, *, tcti: str | None = None) -> str:
    """While a TEE boots, before anything else runs in it: make up the text of a key that no other TEE has, keep it in the agent's
    folder and extend PCR 15 with it; the text. Again in the same boot it changes nothing. Raises `EvidenceRefusal`
    (key_measured) where something else is there, `Unreachable` (tpm_unavailable)."""
    from perunml.attesters import beside

    return beside.measure_key(tcti or TPM, Path(folder))


def machine_kinds(
    tcti: str | None, attester: Sequence[str], simulated_machine: bool, binder: str = ""
) -> tuple[str, ...]:
    """The roots of trust that these arguments of `machine` name, none for a simulated one. Raises `ValueError` where they say
    nothing, or two things."""
    if simulated_machine is bool(tcti is not None or attester or binder):
        raise ValueError("say which machine this is: either tcti or attester, or simulated_machine")
    if simulated_machine:
        return ()
    from perunml.attesters.detect import check_kinds

    if tcti is not None and "auto" in attester:
        raise ValueError("auto takes the system's own TPM: beside tcti, name the other kinds")
    with_tpm = tcti is not None and not {"tpm", "azure"} & {*attester}
    kinds = ("tpm", *attester) if with_tpm else tuple(attester)
    check_kinds(kinds)
    if binder and not ("tpm" in kinds and {"tdx", "snp"} & {*kinds}):
        raise ValueError("a binder ties a TPM to the TEE beside it: name the attesters tpm, and tdx or snp")
    return kinds


def enrol(
    client: Client,
    folder: PathLike,
    name: str,
    *,
    pin: Pin | None = None,
    dry_run: bool = False,
    cleared: bool = False,
    revocations: Sequence[PathLike] = (),
    ak_certificates: Sequence[PathLike] = (),
    **which: Any,
) -> Enrolled:
    """Prove to the pinned manager which machine this is (`which`: the arguments of `machine`), signed by the client's identity
    as its operator; its certificate is kept in `folder`. Gives no right to anything: agreements name machines.

    A TPM that was `cleared`, or has another attestation key than before, is forgotten as it was: owners must approve the
    agreements that name it anew. `revocations` are files with its issuers' lists (DER), `ak_certificates` a cloud's
    certificate (DER) for the attestation key and then its chain's.

    With `dry_run`, or a client that was opened so, everything that needs no manager is done (the TPM answers, its EK
    has a certificate, the folder could be written) and the first request is raised as `client.connection.WouldSend`;
    the folder stays as it is. A TPM that had no attestation key has it afterwards: the same that enrolling makes.
    """
    from perunml.host.enrol import Beside
    from perunml.host.enrol import enrol as send

    pin = pin or client.pin
    own, *chain = [Path(path).read_bytes() for path in ak_certificates] or [b""]
    beside = Beside(cleared, tuple(Path(path).read_bytes() for path in revocations), own, tuple(chain))
    if dry_run or client.dry_run:
        _would_enrol(pin, Path(folder), name, which, beside)
    return send(pin, client.identity.signing, machine(folder, **which), Path(folder), name, beside)


def agent(
    pin: Pin,
    folder: PathLike,
    *,
    services_listen: str = "",
    metrics_listen: str = "",
    traces_to: str = "",
    unpack_at_most: int | None = None,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    **which: Any,
) -> Agent:
    """The agent of an enrolled machine (`which`: the arguments of `machine`): `run_forever()` takes jobs until `stop()`. With `services_listen` (HOST:PORT, port 0
    any) it takes services too, whose numbers Prometheus reads at `metrics_listen` (``/metrics``), and whose spans go to the OpenTelemetry collector `traces_to`. Inputs of more than `unpack_at_most` bytes are mounted, not decrypted into memory (None: more than half of what is free). `on_event` gets what happens, from several threads. Raises `UsageError` (not_enrolled,
    host_unfit, agent_busy) when it runs."""
    from perunml.host.agent import Agent

    return Agent(
        Path(folder), pin, machine(folder, **which), services_listen=services_listen, metrics_listen=metrics_listen, traces_to=traces_to, on_event=on_event,
        unpack_at_most=-1 if unpack_at_most is None else unpack_at_most,
    )  # fmt: skip


def doctor(ground: Ground | None = None) -> Examination:
    """What of this machine fits a host's job, what it can prove by each root of trust, which profiles it could meet, and the
    cure for what is missing. Looks, and changes nothing. `ground` is what it is seen through, for tests."""
    from perunml.attesters import doctor as room

    return room.examine(ground)


def _device(kind: str, tcti: str | None, files: dict[str, PathLike | None], ek_chain: Sequence[PathLike]) -> Device:
    """What was said of a manager's device; names of files become absolute. Raises `UsageError` (malformed)."""
    from perunml.manager.device import Device

    told: dict[str, Any] = {name: str(Path(path).absolute()) for name, path in files.items() if path is not None}
    if tcti is not None:
        told["tcti"] = tcti
    return Device.from_json({"kind": kind, "ek_chain": [str(Path(path).absolute()) for path in ek_chain], **told})


def _would_enrol(pin: Pin, folder: Path, name: str, which: dict[str, Any], beside: Beside) -> None:
    """Raises `WouldSend`, always, or what is wrong with the machine or the folder."""
    from perunml.client.connection import WouldSend
    from perunml.host.enrol import check_writable, enrol_request
    from perunml.wire.identity import SigningKey

    check_writable(folder)
    with tempfile.TemporaryDirectory(prefix="perunml-") as scratch:
        own = folder / ("machine.key" if which.get("simulated_machine") else "tpm.json")
        asked = {**which, "binder": ""} if which.get("binder") == "pcr" else which  # which enrolling does not need
        found = machine(folder if own.exists() else scratch, **asked)
        body = enrol_request(found, name, SigningKey.generate().public.text, beside).encode()
    raise WouldSend("POST", f"{pin.url}/v1/enrolments", body)
