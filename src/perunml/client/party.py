"""What every part of `Client` stands on: a home folder, open keys, and signed requests to one pinned manager."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from perunml.client.connection import Connection
from perunml.client.home import Home, default_home
from perunml.client.identity import Identity
from perunml.wire.errors import IntegrityError, PerunError

if TYPE_CHECKING:
    from perunml.api.pin import Pin

PathLike = str | Path
SELDOM = 60.0
"""Seconds between two looks at a ledger that this party only follows."""


class Party:
    """One party: its home folder, its open keys, and one pinned manager."""

    def __init__(self, home: Home, identity: Identity, *, manager: str = "", dry_run: bool = False) -> None:
        self.home = home
        self.identity = identity
        self._manager = manager
        self._dry_run = dry_run
        self._connection: Connection | None = None
        self._look_at = 0.0

    @classmethod
    def open(
        cls, home: PathLike | None = None, passphrase: bytes = b"", *, manager: str = "", dry_run: bool = False
    ) -> Self:
        """The party of a home folder (default ``$PERUNML_HOME``, then ``~/.perunml``). `manager` chooses among several
        pins; with `dry_run` what would be sent is raised as `client.connection.WouldSend`. Raises `UsageError`
        (no_identity), `IntegrityError` (unseal_failed)."""
        found = Home(Path(home).expanduser() if home is not None else default_home())
        return cls(found, Identity.open(found, passphrase), manager=manager, dry_run=dry_run)

    @classmethod
    def create(cls, home: PathLike, name: str, passphrase: bytes, *, algorithm: str = "ed25519") -> Self:
        """A new party, in a folder that has no identity yet."""
        made = Home(Path(home).expanduser())
        return cls(made, Identity.create(made, name, passphrase, algorithm=algorithm))

    def rotate_identity(self, passphrase: bytes) -> Identity:
        """Make the keys that shall replace this party's (once; the same ones after that). Agreements name them by `rotate_key`, `switch_identity`
        uses them. Raises `IntegrityError` (unseal_failed)."""
        from perunml.client import rotation

        self.identity = rotation.begin(self.home, passphrase)
        return self.identity

    def switch_identity(self, passphrase: bytes, *, ask: bool = True) -> Identity:
        """Use the next keys from now on, and keep the former ones. Unless told not to, every pinned manager is asked first. Raises `UsageError` (no_next_key),
        `ApprovalPending` (key_still_named), `Unreachable`."""
        from perunml.client import rotation

        pins = self.home.pins().values() if ask else ()
        with contextlib.ExitStack() as stack:
            asked = [stack.enter_context(Connection(pin, self.identity.signing)) for pin in pins]
            self.identity = rotation.switch(self.home, passphrase, asked)
        self.close()
        return self.identity

    def forget_key(self, passphrase: bytes, key: str, *, ask: bool = True) -> Identity:
        """Drop the private halves of a former key (text). Unless told not to, every pinned manager is asked first whether an agreement in force still
        needs it. Raises `UsageError` (not_found), `ApprovalPending` (key_still_named), `Unreachable`."""
        from perunml.client import rotation

        pins = self.home.pins().values() if ask else ()
        with contextlib.ExitStack() as stack:
            asked = [stack.enter_context(Connection(pin, self.identity.signing)) for pin in pins]
            self.identity = rotation.forget(self.home, passphrase, key, asked)
        return self.identity

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection to the manager; the client may be used again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __repr__(self) -> str:
        return f"<Client {self.identity.name} at {self.home.folder}>"

    @property
    def dry_run(self) -> bool:
        """Whether what would be sent is raised as `client.connection.WouldSend` instead."""
        return self._dry_run

    @property
    def pin(self) -> Pin:
        """The pinned manager. Raises `UsageError` (not_pinned)."""
        return self.home.pin(self._manager)

    @property
    def connection(self) -> Connection:
        """Signed requests to the pinned manager; made when first needed."""
        if self._connection is None:
            self._connection = Connection(self.pin, self.identity.signing, dry_run=self._dry_run)
            self._glance(self._connection)
        return self._connection

    def _look_later(self) -> None:
        """What follows looks at the ledger itself."""
        self._look_at = time.monotonic() + SELDOM

    def _glance(self, connection: Connection) -> None:
        """Witness the manager's ledger where a look is due: a client is a witness while it is used. What cannot be had now is
        no failure of what the party came for. Raises `IntegrityError`: the ledger is not what it was."""
        if self._dry_run or time.monotonic() < self._look_at:
            return
        from perunml.client.witness import PAUSE, witness

        try:
            seen = witness(connection, self.home, self.identity.signing)
        except IntegrityError:
            self.close()
            raise
        except PerunError:
            self._look_at = time.monotonic() + PAUSE
        else:
            self._look_at = time.monotonic() + (seen.every / 2 if seen.cosigned else SELDOM)

    def trust(
        self,
        url: str,
        profile: PathLike,
        *,
        baselines: Sequence[PathLike] = (),
        signed_by: Sequence[str] = (),
        vendor_roots: Sequence[PathLike] = (),
        simulated_ek_roots: Sequence[PathLike] = (),
        revocations: Sequence[PathLike] = (),
        collateral: Sequence[PathLike] = (),
        simulated_tee_roots: Sequence[PathLike] = (),
    ) -> Pin:
        """Verify the manager's evidence against a profile document, and pin it; in a dry run only verify it. `baselines` are
        the documents that a `measured` profile names, `signed_by` the keys that must have signed a published one; roots and
        revocation lists are for a TPM's EK certificate; `collateral` are bundles that a TEE is judged with in place of the
        manager's own, under development roots `simulated_tee_roots`. Raises `EvidenceRefusal`, `Unreachable`."""
        from perunml.client import trust

        ek = {"vendor_roots": vendor_roots, "simulated_ek_roots": simulated_ek_roots, "revocations": revocations}
        tee = {"collateral": collateral, "simulated_tee_roots": simulated_tee_roots}
        given = trust.Given.read(**{name: list(map(Path, paths)) for name, paths in {**ek, **tee}.items()})
        wanted = trust.read_profile(Path(profile), list(map(Path, baselines)), signed_by)
        found = trust.examine(url, wanted, given=given, seen=trust.seen_before(self.home))
        if not self._dry_run:
            trust.keep(self.home, found)
        return found.pin
