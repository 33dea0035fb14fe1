"""`Client`: an automated member of a board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perunml.client.party import PathLike
from perunml.client.party_agreements import Agreements

if TYPE_CHECKING:
    from perunml.client.checker.judge import Finding


class Checkers(Agreements):
    """Try a checker's rules."""

    def try_checker(self, config: PathLike, target: str) -> list[Finding]:
        """What a checker with the rules in the file `config` would have against `target`: an agreement (a file, digest or name), or a folder of code,
        which is judged by the rules of the only code asset that `config` has. Signs nothing. Raises `UsageError` (malformed, not_found)."""
        from perunml.client.checker.folder import folder_findings
        from perunml.client.checker.rules import read_rules
        from perunml.client.checker.watch import consider

        rules = read_rules(Path(config).read_bytes())
        if Path(target).is_dir():
            return folder_findings(rules, Path(target))
        document = self._document(target)
        return consider(rules, self.home, self.identity, document, self.before(document))
