"""Trust in a manager: ask for evidence over its keys, judge it by the parties' profile, and pin what it vouches for.

Nothing is sent but a nonce and, where a TPM signed, a credential; nothing that the manager says is believed before its
evidence is judged: the connection is made without any trust, then its TLS key is compared with the one that the evidence
covers (a relay in between has another).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from perunml.agreements.profiles import AnyProfile
from perunml.api.codes import CHANNEL_MISMATCH
from perunml.api.pin import Pin, spki_digest
from perunml.api.trust import Attestation, Origin, RootCustody, manager_binding
from perunml.client.activation import check_active, tpm_machine
from perunml.client.appraise import identities, more_reasons, origin_reasons
from perunml.client.asking import Activate, Fetch, fetch_attestation, send_activation
from perunml.client.codes import MANAGER_CHANGED, WRONG_MANAGER
from perunml.client.documents import read_baseline
from perunml.client.endorsed import from_manager, joined, read_collateral
from perunml.client.evidence import read_evidence
from perunml.client.home import Home, manager_name
from perunml.client.profile import ManagerProfile
from perunml.evidence.bundle import Bundle, SimulatedPart
from perunml.evidence.endorsements import Collateral, Endorsements, Seen
from perunml.evidence.judge import Judgement, judge
from perunml.evidence.pem import split
from perunml.evidence.policy import Machine
from perunml.evidence.simulated.verify import machine_id
from perunml.evidence.tpm.chain import Trust
from perunml.evidence.types import Appraisal
from perunml.wire.canonical import Json
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import error, refuse
from perunml.wire.rules import Reason
from perunml.wire.timestamps import format_time

NONCE_SIZE = 32


@dataclass(frozen=True, slots=True)
class Given:
    """What a party judges a manager with besides the profile.

    ek               roots and revocation lists for a TPM's EK certificate
    collateral       vendors' statements about TEEs; None: the manager's, which are worth their vendors' signatures
    simulated_roots  development roots of TEEs (DER): what leads to one is `simulated`
    """

    ek: Trust = field(default_factory=Trust)
    collateral: Collateral | None = None
    simulated_roots: tuple[bytes, ...] = ()

    @classmethod
    def read(
        cls,
        *,
        vendor_roots: Sequence[Path] = (),
        simulated_ek_roots: Sequence[Path] = (),
        revocations: Sequence[Path] = (),
        collateral: Sequence[Path] = (),
        simulated_tee_roots: Sequence[Path] = (),
    ) -> Given:
        """Out of files, DER or PEM. Raises `UsageError` (local_file), `EvidenceRefusal` (non_canonical)."""
        vendor, simulated, tee = (
            tuple(one for path in paths for one in split(read_evidence(path)))
            for paths in (vendor_roots, simulated_ek_roots, simulated_tee_roots)
        )
        lists = tuple(read_evidence(path) for path in revocations)
        held = joined([read_collateral(read_evidence(path)) for path in collateral]) if collateral else None
        return cls(Trust(vendor=vendor, simulated=simulated, revocations=lists), held, tee)


@dataclass(frozen=True, slots=True)
class Trusted:
    """A manager that proved what the profile asks for.

    pin         its keys
    custody     who keeps its root key
    identities  which machine it proved to run on
    claims      what its evidence tells besides, for people
    imitates    for ``simulated``, whose checks were run
    """

    pin: Pin
    custody: RootCustody
    identities: tuple[str, ...]
    claims: Mapping[str, Json]
    imitates: str = ""

    @property
    def origin(self) -> Origin:
        """What it proved, for whoever takes its root key over."""
        pin, kept = self.pin, self.custody
        return Origin(
            profile=pin.profile,
            imitates=self.imitates,
            judged_by=pin.judged_by,
            identities=list(self.identities),
            custody=kept.kind,
            pcrs=kept.pcrs,
        )


def examine(
    url: str,
    profile: ManagerProfile,
    *,
    given: Given | None = None,
    seen: Mapping[str, Seen] | None = None,
    fetch: Fetch | None = None,
    activate: Activate | None = None,
    now: float | None = None,
    nonce: bytes | None = None,
) -> Trusted:
    """The manager at `url` (https://host:port), after its fresh evidence was found good enough; nothing is kept. `seen` is
    the newest collateral that was judged by before (`seen_before`): an older one is refused.

    Raises `EvidenceRefusal`: another TLS key than the attested one (channel_mismatch), another identity than the
    profile's (wrong_manager), a root key that others know (custody_weak), or whatever is wrong with the evidence.
    """
    url, given = _origin(url), given or Given()
    nonce = os.urandom(NONCE_SIZE) if nonce is None else nonce
    shown = (fetch or fetch_attestation)(url, nonce)
    said = shown.attestation
    if not shown.peer == said.tls == spki_digest(said.certificate):
        raise refuse(
            CHANNEL_MISMATCH,
            "the TLS connection's key is not the one that the manager attests",
            expected=said.tls,
            seen=shown.peer,
        )
    if profile.key and profile.key != said.identity:
        raise refuse(WRONG_MANAGER, "another manager than the profile names", expected=profile.key, seen=said.identity)
    when = int(time.time() if now is None else now)
    judgement = _judge(said, nonce, profile, given, seen or {}, when)
    appraisal = judgement.appraisal
    if said.tpm is not None:
        check_active(url, said, said.tpm, activate or send_activation)
    pin = Pin(
        url=url,
        identity=said.identity,
        intake=said.intake,
        tls=said.tls,
        certificate=said.certificate,
        host_ca=said.host_ca,
        profile=appraisal.profile,
        simulated=appraisal.profile == "simulated",
        machine="+".join(identities(appraisal)),
        pinned=format_time(when),
        judged_by=appraisal.baseline,
        custody=said.custody.kind,
        seen={
            name: [one.number, one.issued]
            for name, one in _newest((*(seen or {}).items(), *judgement.seen.items())).items()
        },
    )
    return Trusted(pin, said.custody, identities(appraisal), appraisal.claims, appraisal.imitates)


def trust(
    url: str,
    profile: ManagerProfile,
    *,
    given: Given | None = None,
    fetch: Fetch | None = None,
    activate: Activate | None = None,
    now: float | None = None,
    nonce: bytes | None = None,
) -> Pin:
    """`examine`, for the pin alone."""
    return examine(url, profile, given=given, fetch=fetch, activate=activate, now=now, nonce=nonce).pin


def read_profile(path: Path, baselines: Sequence[Path] = (), signed_by: Sequence[str] = ()) -> ManagerProfile:
    """A profile and the baselines that it names, out of files. Raises as `ManagerProfile.load`, and `UsageError`
    (local_file)."""
    held = [read_baseline(read_evidence(file)) for file in baselines]
    return ManagerProfile.load(read_evidence(path), baselines=held, signed_by=signed_by)


def trust_and_pin(home: Home, url: str, profile: ManagerProfile, given: Given | None = None) -> Pin:
    """`examine` and `keep`."""
    found = examine(url, profile, given=given, seen=seen_before(home))
    keep(home, found)
    return found.pin


def keep(home: Home, found: Trusted) -> None:
    """Pin a manager. An address whose manager was pinned under another identity is refused, and so is one that proves less
    than it did, or runs on another machine: a changed manager is a new decision, and the old pin is moved away by hand.
    Raises `EvidenceRefusal` (wrong_manager, manager_changed)."""
    pin = found.pin
    before = home.pins().get(manager_name(pin.url))
    if before is not None and before.identity != pin.identity:
        raise refuse(
            WRONG_MANAGER,
            "another manager was pinned at this address before",
            expected=before.identity,
            seen=pin.identity,
        )
    if before is not None and (reasons := tuple(_changes(before, pin))):
        raise error(reasons)
    home.create()
    home.save_pin(pin)


def _changes(before: Pin, now: Pin) -> Iterator[Reason]:
    if before.simulated:
        return  # whatever it proves now is more
    if now.profile != before.profile:
        yield Reason(MANAGER_CHANGED, "the manager proves another profile", expected=before.profile, seen=now.profile)
    if now.machine != before.machine:
        yield Reason(MANAGER_CHANGED, "the manager runs on another machine", expected=before.machine, seen=now.machine)
    if before.custody != "passphrase" and now.custody != before.custody:
        yield Reason(MANAGER_CHANGED, "another custody keeps the root key", expected=before.custody, seen=now.custody)


def seen_before(home: Home) -> dict[str, Seen]:
    """The newest collateral that any manager pinned here was judged by."""
    return _newest((name, Seen(*values)) for pin in home.pins().values() for name, values in pin.seen.items())


def _newest(told: Iterable[tuple[str, Seen]]) -> dict[str, Seen]:
    """Of each name the newest: what was judged by may be a day older than what was seen, and is not to become the measure."""
    found: dict[str, Seen] = {}
    for name, one in told:
        found[name] = max(found.get(name, one), one, key=lambda each: (each.number, each.issued))
    return found


def _judge(
    said: Attestation, nonce: bytes, profile: ManagerProfile, given: Given, seen: Mapping[str, Seen], now: int
) -> Judgement:
    """The judgement under the first alternative that the manager satisfies. Raises `EvidenceRefusal` with every reason, each
    once."""
    bundle = Bundle.from_json(said.evidence)
    expected = manager_binding(
        nonce=nonce,
        identity=said.identity,
        intake=said.intake,
        tls=said.tls,
        host_ca=said.host_ca,
        custody=said.custody,
        machine=said.machine,
    )
    machine = _machine(said, bundle, given, now)
    collateral = given.collateral if given.collateral is not None else from_manager(said.collateral)
    endorsements = Endorsements(collateral, given.simulated_roots, seen)
    found: dict[Reason, None] = {}
    for written, policy in profile.alternatives:
        judgement = judge(bundle, machine=machine, policy=policy, binding=expected, now=now, endorsements=endorsements)
        reasons = tuple(_reasons(judgement.appraisal, written, said.custody, profile, expected))
        if not reasons:
            return judgement
        found |= dict.fromkeys(reasons)
    raise error(tuple(found))


def _reasons(
    appraisal: Appraisal, written: AnyProfile, custody: RootCustody, profile: ManagerProfile, expected: bytes
) -> Iterator[Reason]:
    yield from appraisal.reasons
    if appraisal.binding == expected:  # else nothing was verified, and there are reasons
        yield from more_reasons(appraisal, written, custody, profile.custody)
        yield from origin_reasons(profile.admitted_origins, custody, profile.custody)


def _machine(said: Attestation, bundle: Bundle, given: Given, now: int) -> Machine:
    """The machine as it names itself: nobody enrolled a manager's machine with its clients. A bare key is worth what
    `simulated` is worth; it must at least be the key that the machine is named after. A TPM's EK is a vendor's, or of a
    simulated root that was given. A TEE has no name before its evidence is judged."""
    if said.tpm is not None:
        return tpm_machine(said.machine, said.tpm, given.ek, now)
    for part in bundle.parts:
        if isinstance(part, SimulatedPart):
            own = machine_id(part.key)
            if said.machine != own:
                raise refuse(WRONG_MANAGER, "the machine is not named after its key", expected=own, seen=said.machine)
            return Machine(said.machine, simulated=True, key=part.key)
    if said.machine:
        raise refuse(WRONG_MANAGER, "the machine has a name that nothing proves", expected="none", seen=said.machine)
    return Machine("", simulated=False)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise refuse(MALFORMED, "not a manager's address", expected="https://host:port", seen=url)
    return f"https://{parts.netloc}"
