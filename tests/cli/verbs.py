"""Every verb, as the command tree has it, and what is said of each: who does it from Python, and whether it sends.

A new verb is added here, in docs/cli.md's two tables, and in test_every_verb.py; the tests name what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from perunml.cli.root import VERBS, cli

SDK = {
    "id create": "Client.create",
    "id show": "Client.identity",
    "id rotate": "Client.rotate_identity",
    "id switch": "Client.switch_identity",
    "id forget": "Client.forget_key",
    "trust": "Client.trust",
    "seal": "Client.seal",
    "push": "Client.push",
    "document push": "Client.push_document",
    "document digest": "Client.document_digest",
    "document sign": "Client.sign_document",
    "agreement check": "Client.check",
    "agreement schema": "Client.agreement_schema",
    "agreement review": "Client.review",
    "agreement propose": "Client.propose",
    "agreement approve": "Client.approve",
    "agreement diff": "Client.diff",
    "agreement message": "Client.approval_message",
    "agreement attach": "Client.attach",
    "agreement withdraw": "Client.withdraw",
    "agreement rotate-key": "Client.rotate_key",
    "agreement show": "Client.agreement",
    "agreement list": "Client.agreements",
    "job submit": "Client.submit",
    "job show": "Client.run",
    "job list": "Client.runs",
    "job wait": "Client.wait",
    "asset show": "Client.asset",
    "asset list": "Client.assets",
    "asset suspend": "Client.suspend",
    "asset lift": "Client.suspend",
    "why": "Client.why",
    "condition add": "Client.add_condition",
    "condition list": "Client.conditions",
    "condition drop": "Client.drop_condition",
    "output list": "Client.outputs",
    "output approve": "Client.approve_output",
    "output pull": "Client.pull",
    "serve": "Client.serve",
    "infer": "Client.infer",
    "proxy": "Client.proxy",
    "receipt verify": "Client.verify_receipt",
    "audit export": "Client.export_audit",
    "audit verify": "Client.verify_audit",
    "checker try": "Client.try_checker",
    "checker run": "perunml.client.checker.watch.check_until",
    "recover": "Client.recover",
    "recovery keep": "Client.keep_shares",
    "recovery give": "Client.give_shares",
    "recovery list": "Client.recoveries",
    "ledger verify": "Client.verify_ledger",
    "witness once": "Client.witness",
    "witness run": "perunml.client.witness.witness_until",
    "evidence check tpm": "perunml.client.evidence.check_tpm",
    "evidence check event-log": "perunml.client.evidence.check_event_log",
    "evidence check ima": "perunml.client.evidence.check_ima",
    "evidence check sgx": "perunml.client.evidence.check_dcap",
    "evidence check tdx": "perunml.client.evidence.check_dcap",
    "evidence check snp": "perunml.client.evidence.check_snp",
    "evidence check nvidia": "perunml.client.evidence.check_nvidia",
    "image golden": "perunml.client.golden.compute",
    "baseline build": "perunml.client.baselines.build_baseline",
    "baseline import": "perunml.client.baselines.import_keylime",
    "baseline diff": "perunml.evidence.difference.difference",
    "baseline schema": "perunml.evidence.schema.baseline_schema",
    "baseline show": "perunml.client.evidence.read_profile",
    "collateral bundle": "perunml.client.collateral.make_bundle",
    "collateral show": "perunml.client.collateral.read_bundle",
    "manager init": "operators.make_manager",
    "manager join": "operators.join_manager",
    "manager admit": "operators.admit",
    "manager backup": "operators.backup",
    "manager restore": "operators.restore",
    "manager adopt": "operators.adopt",
    "manager rotate-intake": "operators.rotate_intake",
    "manager store add": "perunml.manager.stores.add",
    "manager store list": "perunml.manager.stores.show",
    "manager store remove": "perunml.manager.stores.remove",
    "manager run": "operators.manager",
    "manager boot": "perunml.manager.boot.read",
    "host enrol": "operators.enrol",
    "host run": "operators.agent",
    "host boot": "perunml.host.boot.serve",
    "host boot-log": "Client.host_boot_log",
    "host doctor": "operators.doctor",
    "host install": "perunml.host.install.install",
    "host uninstall": "perunml.host.install.uninstall",
    "host measure-key": "operators.measure_key",
    "host explain": "Client.explain",
    "quickstart": "perunml.testing.story.tell.tell",
}
"""Verb to `Client`'s attribute, `perunml.operators`' function, or the full name of a function."""
NOT_IN_PYTHON = {"completion"}
"""Of the shell alone."""
SENDS = {
    "trust",
    "push",
    "document push",
    "recover",
    "recovery give",
    "agreement propose",
    "agreement approve",
    "agreement attach",
    "agreement withdraw",
    "agreement rotate-key",
    "job submit",
    "asset suspend",
    "asset lift",
    "condition add",
    "condition drop",
    "output approve",
    "serve",
    "infer",
    "host enrol",
    "manager join",
}
"""Verbs that send something which changes something, there or (`trust`: what is believed from now on) here."""
WRITES = {"host install", "host uninstall"}
"""Verbs that change this machine beyond a folder that they are given, and so have a dry run too."""
SERVES = {"manager run", "manager boot", "host run", "host boot", "witness run", "checker run", "proxy"}
"""Verbs that run until they are stopped. `host run` sends, for as long as it runs: a dry run of it would do nothing."""


def leaves() -> dict[str, click.Command]:
    """Every verb of the tree, `model` (the same as `output`) aside."""
    return dict(_walk((), cli))


def _walk(path: tuple[str, ...], command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        if not (path == () and name != VERBS_BY_MODULE[VERBS[name][0]]):
            yield from _walk((*path, name), found)


VERBS_BY_MODULE = {module: name for name, (module, _) in reversed(VERBS.items())}
"""The first verb of each module: `model` is `output` under another name."""
