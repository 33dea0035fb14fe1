"""Replaying a ledger, third part: shares of outputs' keys, and outputs that were recovered from lost managers."""

from __future__ import annotations

from perunml.agreements.recovery import OutputShares, open_given, open_shares, renamed
from perunml.ledger.entries import OpenedEntry
from perunml.release.outputs import decide_shares
from perunml.release.replay_agreements import Agreements, Handler, text, wrong
from perunml.release.replay_runs import Runs
from perunml.release.types import RegisteredOutput


class Recoveries:
    """Who gave which share, and that enough had before an output was there."""

    def __init__(self, agreements: Agreements, runs: Runs) -> None:
        self._agreements, self._runs = agreements, runs
        self._given: dict[tuple[str, str], set[str]] = {}

    def handlers(self) -> dict[str, Handler]:
        """By an entry's type."""
        return {"shares": self._split, "share": self._share, "recovered": self._recovered}

    def _split(self, item: OpenedEntry) -> None:
        """This manager split an output's key: of an output that it has."""
        output = self._runs.output(item)
        if output is not None and (text(item, "run"), text(item, "output")) != (output.run, output.name):
            raise wrong(item, "another run's output", f"{output.name} of {output.run}")

    def _share(self, item: OpenedEntry) -> None:
        agreement = self._agreements.of(item)
        for envelope in self._agreements.found(item, "share", text(item, "share")):
            given = open_given(agreement, envelope)
            said = (text(item, "party"), item.entry.subject, text(item, "shares"))
            if (given.party, given.asset, given.shares) != said:
                raise wrong(item, "the share is of another party or output", str(said), given.party)
        party, kept = said[0], self._given.setdefault((self._agreements.line(agreement.digest), said[2]), set())
        if party in kept:
            raise wrong(item, "one party's share is counted twice", seen=party)
        kept.add(party)

    def _recovered(self, item: OpenedEntry) -> None:
        agreement, now = self._agreements.of(item), item.entry.time
        shares = self._shares(item)
        said = {name: text(item, name) for name in ("run", "job", "output", "manager")} | {"asset": item.entry.subject}
        for name, value in said.items():
            if getattr(shares, name) != value:
                raise wrong(item, f"the shares are of another {name}", getattr(shares, name), value)
        line = self._agreements.line(agreement.digest)
        given = self._given.get((line, shares.digest), set()) & set(shares.holders)
        if len(given) < shares.at_least:
            expected = f"{shares.at_least} of {', '.join(shares.holders)}"
            raise wrong(item, "too few had given their shares", expected, ", ".join(sorted(given)) or "nobody")
        run = text(item, "as")
        if run not in (shares.run, renamed(shares, line)):
            raise wrong(item, "the run has another name than its own", shares.run, run)
        output = RegisteredOutput(run, shares.job, shares.output, shares.asset)
        state = self._agreements.state(agreement, now)
        if reasons := decide_shares(agreement, state=state, output=output, now=now):
            raise wrong(item, f"the agreement did not allow it then: {reasons[0].code}: {reasons[0].message}")
        self._runs.recovered(item, output)

    def _shares(self, item: OpenedEntry) -> OutputShares:
        recovery = self._agreements.of(item).recovery
        (envelope, *_) = self._agreements.found(item, "document of shares", text(item, "shares"))
        return open_shares(envelope, recovery.managers if recovery else ())
