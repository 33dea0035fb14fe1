"""What all of the manager's parts share: one value, handed in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perunml.manager import journal
from perunml.manager.certificates import Issuer
from perunml.manager.clock import Clock
from perunml.manager.collateral import CollateralStore
from perunml.manager.config import Config
from perunml.manager.device import make_attester
from perunml.manager.keys import Keys
from perunml.manager.library import Library
from perunml.manager.limits import Limits
from perunml.manager.logstates import LogStates
from perunml.manager.pending import Challenges, Enrolments, Handovers
from perunml.manager.quorum import Witnessed
from perunml.manager.rollback import Rollback
from perunml.manager.store.database import Database
from perunml.manager.stores import Stores
from perunml.manager.writer import Writer

if TYPE_CHECKING:
    from perunml.attesters.base import Attester


@dataclass(frozen=True, slots=True)
class Services:
    """One manager's services. `authorities` are the names under which signed requests may address it."""

    config: Config
    keys: Keys
    issuer: Issuer
    certificate: str  # of TLS, PEM
    database: Database
    writer: Writer
    rollback: Rollback
    witnessed: Witnessed
    clock: Clock
    limits: Limits
    library: Library
    logs: LogStates
    challenges: Challenges
    enrolments: Enrolments
    handovers: Handovers
    attester: Attester
    collateral: CollateralStore
    stores: Stores
    authorities: set[str] = field(default_factory=set)
    counting: asyncio.Lock = field(default_factory=asyncio.Lock)  # one at a time counts in the TPM


def make_services(config: Config, keys: Keys, *, clock: Clock | None = None) -> Services:
    """Open the store, check it against its own ledger, and put the parts together. Raises `IntegrityError`
    (state_damaged). The writer is not started."""
    clock = clock or Clock()
    database = Database.open(config.database)
    with database.read() as connection:
        clock.raise_floor(journal.check(connection, keys).time)
        rollback = Rollback.load(connection)
    library, logs = Library(keys), LogStates()

    def forget() -> None:
        library.forget()
        logs.forget()

    writer = Writer(database, keys, committed=clock.raise_floor, forget=forget, halted=rollback.check)
    return Services(
        config=config,
        keys=keys,
        issuer=Issuer(keys.host_ca()),
        certificate=(config.folder / "tls.pem").read_text("ascii"),
        database=database,
        writer=writer,
        rollback=rollback,
        witnessed=Witnessed(clock, rollback),
        clock=clock,
        limits=Limits(clock.steady),
        library=library,
        logs=logs,
        challenges=Challenges(clock.steady),
        enrolments=Enrolments(clock.steady),
        handovers=Handovers(clock.steady),
        attester=make_attester(config.device, config.folder / "device", keys.machine),
        collateral=CollateralStore(
            config.collateral, config.collateral_signers, config.simulated_tee_roots, clock.steady
        ),
        stores=Stores(keys),
        authorities={config.authority},
    )
