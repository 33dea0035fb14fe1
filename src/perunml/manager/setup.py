"""Making a manager, and admitting keys: local commands on its folder, no network."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.dialects.sqlite import insert

from perunml.evidence.pem import split
from perunml.evidence.tpm.certificate import parse_certificate
from perunml.evidence.x509 import read_certificate
from perunml.manager import counter, journal
from perunml.manager.certificates import ca_certificate, tls_certificate
from perunml.manager.codes import FOLDER_IN_USE
from perunml.manager.config import Config, locked, sync_folder, write_file
from perunml.manager.custody import Custody, Passphrase
from perunml.manager.device import Device, make_attester
from perunml.manager.keys import ROOT_SIZE, Keys
from perunml.manager.rollback import Rollback
from perunml.manager.store import facts
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Statement
from perunml.manager.store.database import Database
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

_HAS_FACTS = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'facts'"
IN_FORCE = "SELECT digest FROM agreements WHERE state = 'in_force' ORDER BY rowid"
_ADMIT = Statement(insert(t.admitted).on_conflict_do_nothing())


def init(
    folder: Path,
    custody: Custody | bytes,
    *,
    url: str,
    vendor_roots: Sequence[Path] = (),
    simulated_ek_roots: Sequence[Path] = (),
    demand_revocations: bool = False,
    device: Device | None = None,
    simulated_tee_roots: Sequence[Path] = (),
    collateral_signers: Sequence[str] = (),
    count_in_tpm: bool = False,
) -> str:
    """Make a manager in `folder` (made, or empty) that parties will reach at `url` (https://host:port); its identity's
    text. `custody` keeps its root key; bytes are a passphrase. `device` makes its evidence. EK roots are certificates, PEM or DER, besides those that are known (`evidence.tpm.roots`); a TPM under a simulated
    root is `simulated`, whatever it proves. With `demand_revocations` each EK's chain needs revocation lists in force: the
    host's, or those that the operator keeps in ``revocations/*.crl``. A TEE or GPU under one of `simulated_tee_roots` (PEM or DER)
    is `simulated`; `collateral_signers` are the identity keys whose bundles in ``collateral/*.json`` it is judged with. With `count_in_tpm`
    a counter of the device's TPM tells an old copy of the folder.

    Raises `UsageError` (malformed: the url; folder_in_use: the folder is not empty), and what custody and device refuse. A crash leaves a folder without
    ``manager.json``, which is no manager's; make another."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path or parts.query or parts.fragment:
        raise refuse(MALFORMED, "not a manager's url", expected="https://host:port", seen=url)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise refuse(FOLDER_IN_USE, "the folder is not empty", seen=str(folder))
    config = Config(
        folder,
        url,
        _roots(vendor_roots),
        _roots(simulated_ek_roots),
        (),
        demand_revocations,
        device or Device(),
        _tee_roots(simulated_tee_roots),
        tuple(PublicKey(key).text for key in collateral_signers),
    )
    keeper = Passphrase(custody) if isinstance(custody, bytes) else custody
    root = os.urandom(ROOT_SIZE)
    keys = Keys(root)
    make_attester(config.device, folder / "device", keys.machine)  # what cannot prove itself is said now
    now = int(time.time())
    write_file(folder / "root.json", keeper.seal(root, counted=count_in_tpm), 0o600)
    write_file(folder / "tls.pem", tls_certificate(keys.tls_key(), url, now), 0o644)
    write_file(folder / "host-ca.pem", ca_certificate(keys.host_ca(), now), 0o644)
    config.blobs.mkdir(mode=0o700)
    config.collateral.mkdir(mode=0o755)
    database = Database.create(config.database)
    with database.write() as connection:
        journal.begin(connection, keys)
        if count_in_tpm:
            counter.begin(connection, config.device, keys)
    database.close()
    sync_folder(folder)
    config.save()  # last: what has settings is whole
    return keys.identity.public.text


def unlock(folder: Path, custody: Custody | bytes) -> Keys:
    """The manager's keys. Raises `UsageError` (folder_in_use: no manager's folder), `IntegrityError` (unseal_failed, or what
    `custody` refuses)."""
    config = Config.load(folder)
    keeper = Passphrase(custody) if isinstance(custody, bytes) else custody
    root, kept = keeper.open((folder / "root.json").read_bytes())
    database = Database(config.database)  # opened and looked through by whoever serves from it
    with database.read() as connection:
        intake = facts.number(connection, facts.INTAKE, 1) if connection.run(_HAS_FACTS).first() else 1
    database.close()
    return Keys(root, kept, intake)


def rotate_intake(folder: Path, custody: Custody | bytes) -> tuple[str, int]:
    """Replace the manager's intake key, while the manager does not run; the new key (text) and its generation. Keys that were sealed to the old one
    before are kept as they were. Every agreement's parties find it in the ledger. Raises as `unlock`, and `UsageError` (folder_in_use: it runs)."""
    with locked(folder):
        keys = unlock(folder, custody)
        made = keys.next_intake()
        database = Database.open(folder / Config.load(folder).database.name)
        with database.write() as connection:
            rollback = Rollback.load(connection)
            entries = journal.Journal(connection, keys, {}, rollback.check)
            now = max(int(time.time()), entries.time)
            for row in connection.run(IN_FORCE).all():
                body = {"generation": made.generation, "intake": made.intake.public.text}
                entries.append("intake-rotation", now, row[0], row[0], body)
            facts.put(connection, facts.INTAKE, made.generation)
            entries.flush()
        database.close()
    return made.intake.public.text, made.generation


def admit(folder: Path, keys: Iterable[str]) -> None:
    """Let these identity keys talk to the manager (docs/decisions/0004); it may be running. Raises `UsageError`."""
    texts = [PublicKey(key).text for key in keys]
    database = Database(Config.load(folder).database)
    with database.write() as connection:
        _ADMIT.many(connection, [{"key": key, "time": int(time.time())} for key in texts])
    database.close()


def _tee_roots(paths: Sequence[Path]) -> tuple[bytes, ...]:
    found = tuple(root for path in paths for root in split(Path(path).read_bytes()))
    for root in found:
        read_certificate(root, "a development root")  # said now, not when the first TEE is judged
    return found


def _roots(paths: Sequence[Path]) -> tuple[bytes, ...]:
    found = [root for path in paths for root in split(Path(path).read_bytes())]
    for root in found:
        parse_certificate(root)  # what cannot be read is said now, not at the first enrolment
    return tuple(found)
