"""The checker at work: it looks at proposals, and signs those that nothing speaks against, with this home's key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event

from perunml.agreements.schema import Agreement
from perunml.api.agreements import AgreementView
from perunml.client import agreements, assets
from perunml.client.checker.judge import Code, Finding, findings
from perunml.client.checker.rules import Rules
from perunml.client.client import Client
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.sealing.keys import wipe
from perunml.sealing.reader import SealedReader
from perunml.sealing.store import FolderStore
from perunml.wire.errors import PerunError

PAUSE = 10.0
"""Seconds between two looks."""
MAX_CODE = 256 * 1024 * 1024
"""Bytes of a code asset that a checker opens."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker thinks of a proposal; `signed` when it has signed it just now."""

    agreement: str
    name: str
    version: int
    findings: tuple[Finding, ...]
    signed: bool = False


def open_code(home: Home, identity: Identity, digest: str) -> dict[str, bytes] | str:
    """The files of the very asset that an agreement names by digest, out of this home's sealed assets; or the words why not. What is
    looked at is what was sealed: the manifest's signature, the key's wrap and each chunk are checked."""
    place = next(((name, version) for name, version, found in assets.local_assets(home) if found == digest), None)
    if place is None:
        return f"no sealed asset of this home is {digest}"
    try:
        sealed, _ = assets.load_sealed(home, identity, *place)
        if sealed.manifest.size > MAX_CODE:
            return f"{sealed.manifest.size} bytes, more than {MAX_CODE}"
        with FolderStore(sealed.folder) as store:
            key = identity.data_key(store.keys(), sealed.manifest)
            try:
                with SealedReader(sealed.manifest, key, store) as reader:
                    return {path: reader.read_file(path) for path in reader.files}
            finally:
                wipe(key)
    except (PerunError, OSError) as exc:
        return f"{place[0]} does not open: {exc}"


def consider(
    rules: Rules, home: Home, identity: Identity, agreement: Agreement, before: Agreement | None
) -> list[Finding]:
    """Everything that speaks against signing this agreement; `before` is the version that it follows."""
    return findings(rules, agreement, before, _code(home, identity, agreement, before))


def check_once(client: Client, rules: Rules, told: Callable[[Verdict], None], known: set[str] | None = None) -> None:
    """Look at all proposals that this key may vote on and has not; sign those that nothing speaks against. `told` hears of each,
    once for those in `known`, which is kept. Whatever fails while a proposal is judged is a reason not to sign it."""
    for view in agreements.listed(client.connection):
        if view.state != "proposed" or view.name not in rules.agreements or _signed_by(view, client.identity):
            continue
        try:
            _, document = client.agreement(view.digest)
            found = consider(rules, client.home, client.identity, document, client.before(document))
        except PerunError as exc:
            found = [Finding("judge", f"it could not be judged: {exc}")]
        if not found:
            client.approve(view.digest)
        elif known is not None and view.digest in known:
            continue
        if known is not None:
            known.add(view.digest)
        told(Verdict(view.digest, view.name, view.version, tuple(found), not found))


def check_until(
    stop: Event, client: Client, rules: Rules, told: Callable[[Verdict | PerunError], None], *, pause: float = PAUSE
) -> None:
    """Look every `pause` seconds until `stop` is set. A manager that cannot be reached is asked again."""
    known: set[str] = set()
    while not stop.is_set():
        try:
            check_once(client, rules, told, known)
        except PerunError as exc:
            told(exc)
        stop.wait(pause)


def _code(home: Home, identity: Identity, agreement: Agreement, before: Agreement | None) -> Mapping[str, Code | str]:
    found: dict[str, Code | str] = {}
    for name, asset in agreement.assets.items():
        if asset.kind != "code":
            continue
        files = open_code(home, identity, asset.digest)
        old = before.assets.get(name) if before else None
        earlier = open_code(home, identity, old.digest) if old else ""
        found[name] = (
            files
            if isinstance(files, str)
            else Code(files, None if isinstance(earlier, str) else earlier, asset.entry or "")
        )
    return found


def _signed_by(view: AgreementView, identity: Identity) -> bool:
    key = identity.signing.public.text
    return any(signer == key for envelope in view.approvals for signer, _ in envelope.signatures)
