"""Act 7: things go wrong, on purpose, and each is refused with its coded reason on one line."""

from __future__ import annotations

from pathlib import Path

from perunml.attesters.tpm import TpmAttester
from perunml.client.home import Home
from perunml.testing.story import data, relay
from perunml.testing.story.processes import Outcome, StoryError
from perunml.testing.story.script import Story

EXIT = {"agreement": 10, "evidence": 11, "pending": 12, "suspended": 13, "integrity": 14, "limit": 15}


def go_wrong(story: Story) -> None:
    """The order matters: each training run that is released counts, and a TPM whose PCR was extended stays so."""
    story.report.heading("7. Things go wrong, on purpose")
    changed_code(story)
    stranger_asks(story)
    suspended_asset(story)
    second_run(story)
    relayed_quote(story)
    extended_pcr(story)
    fourth_run(story)


def expect(story: Story, who: str, attempt: str, outcome: Outcome, code: str, kind: str) -> None:
    if outcome.code != code or outcome.exit_code != EXIT[kind]:
        raise StoryError(f"{attempt}: expected {code} ({EXIT[kind]}), got {outcome}")
    story.report.refused(who, attempt, code, outcome.message)


def changed_code(story: Story) -> None:
    world = story.world
    code = world["acme"].folder / "code" / "train.py"
    code.write_text(code.read_text() + "\n# and one small thing more\n")
    made = world["acme"].run("seal", str(code.parent), "--name", "classifier", "--kind", "code")
    world["acme"].run("push", "classifier")
    outcome = world["acme"].refused(
        "job", "submit", story.agreement, "train", "--parameter=epochs=1", "--parameter=batch_size=32",
        "--parameter=seed=7", "--parameter=pause_ms=0", f"--asset=classifier={made['asset']}",
    )  # fmt: skip
    expect(story, "acme", "runs changed training code", outcome, "digest_not_agreed", "agreement")


def suspended_asset(story: Story) -> None:
    world = story.world
    world["st-vitus"].run("asset", "suspend", "scans", "--agreement", story.agreement)
    outcome = world["acme"].refused("job", "submit", story.agreement, "train", *quick())
    expect(
        story,
        "acme",
        "asks for a run while the hospital has suspended its data",
        outcome,
        "asset_suspended",
        "suspended",
    )
    with story.report.step("inference", "loses its lease too: its model came from that data; its keys are wiped"):
        world.servers["inference"].wait_for(event="lease_lost", run=story.service["run"])
        world.servers["inference"].wait_for(event="keys_wiped", run=story.service["run"])
    world["st-vitus"].run("asset", "lift", "scans", "--agreement", story.agreement)


def stranger_asks(story: Story) -> None:
    world = story.world
    question = world.write_json("stranger", "question.json", data.patient(story.found["scans"]))
    endpoint = world.servers["inference"].wait_for(event="serving")["endpoint"]
    outcome = world["stranger"].refused("infer", story.service["run"], str(question), "--endpoint", endpoint)
    expect(
        story, "stranger", "a clinic that is not in the agreement asks", outcome, "client_not_in_agreement", "agreement"
    )


def second_run(story: Story) -> None:
    with story.report.step("acme", "runs the second of three trainings; nothing is wrong with that") as step:
        run = story.submit("train", epochs=1, batch_size=32, seed=7, pause_ms=0)
        view = story.world["acme"].run("job", "wait", run["run"])
        step.found(view["state"])


def relayed_quote(story: Story) -> None:
    """The operator, who has root on the trainer, asks for the run with keys of its own and relays the machine's quote."""
    world = story.world
    world.servers["trainer"].stop()
    run = story.submit("train", epochs=40, batch_size=32, seed=7, pause_ms=1000)
    story.found["third"] = run["run"]
    cloud = world["gpu-cloud"]
    pin = Home(cloud.home).pin("")
    attester = TpmAttester(world.tpm["tcti"], cloud.folder / "trainer", Path(world.tpm["ima_log"]), None)
    refusal = relay.relay(pin, attester, cloud.folder / "trainer", run["run"], story.agreement)
    if refusal is None or refusal.code != "binding_mismatch":
        raise StoryError(f"a relayed quote: expected binding_mismatch, got {refusal}")
    story.report.refused(
        "gpu-cloud", "relays the machine's quote for session keys of its own", refusal.code, refusal.reasons[0].message
    )


def extended_pcr(story: Story) -> None:
    """The third run starts; then somebody extends a PCR. The lease is not renewed, the job dies, the keys are wiped."""
    world = story.world
    world.start_host("trainer")
    agent = world.servers["trainer"]
    agent.wait_for(event="released", run=story.found["third"])
    agent.wait_for(event="renewed", run=story.found["third"])
    world.servers["tpm"].ask("extend 1 " + "ab" * 32)
    lost = agent.wait_for(event="lease_lost", run=story.found["third"])
    agent.wait_for(event="keys_wiped", run=story.found["third"])
    outcome = world["acme"].refused("job", "wait", story.found["third"])
    if outcome.code != "pcr_mismatch" or outcome.exit_code != EXIT["evidence"]:
        raise StoryError(f"a PCR was extended: expected pcr_mismatch, got {outcome} ({lost})")
    story.report.refused(
        "trainer",
        "a PCR is extended in mid-run: lease not renewed, job killed, keys wiped",
        outcome.code,
        outcome.message,
    )


def fourth_run(story: Story) -> None:
    outcome = story.world["acme"].refused("job", "submit", story.agreement, "train", *quick())
    expect(story, "acme", "asks for a fourth run where three were agreed", outcome, "runs_exhausted", "limit")


def quick() -> list[str]:
    return ["--parameter=epochs=1", "--parameter=batch_size=32", "--parameter=seed=7", "--parameter=pause_ms=0"]
