"""`perunml proxy`: a plain HTTP server on this machine, in front of a confidential service."""

from __future__ import annotations

from pathlib import Path

import click

from perunml.cli.manager import say_event
from perunml.cli.settings import Command, Settings, manager_option


@click.command(cls=Command)
@click.argument("run", metavar="RUN|AGREEMENT/JOB")
@click.option(
    "--listen",
    default="127.0.0.1:9000",
    metavar="HOST:PORT",
    show_default=True,
    help="Where clients find it (port 0: any).",
)
@click.option("--endpoint", default="", metavar="URL", help="Reach the service here instead of where its host says.")
@click.option(
    "--pad", is_flag=True, help="Round lengths up, by an eighth at the most, so that few are left to tell apart."
)
@click.option("--receipts", type=click.Path(path_type=Path, file_okay=False),
              help="Keep each answer's receipt in this folder [default: check them, and keep none].")  # fmt: skip
@click.option("--listen-beyond-this-machine", is_flag=True,
              help="Let --listen name an address of a network. Whoever reaches it asks in this party's name.")  # fmt: skip
@manager_option
@click.pass_obj
def command(
    settings: Settings,
    run: str,
    listen: str,
    endpoint: str,
    pad: bool,
    receipts: Path | None,
    listen_beyond_this_machine: bool,
    manager: str,
) -> None:
    """Serve a confidential service to plain clients of the Open Inference Protocol on this machine, until it is stopped. Requests go sealed to the key that
    the pinned manager certified, answers come with a receipt, and nothing is sent to anybody else."""
    import signal
    import threading

    from perunml.api.inference import ReceiptFile
    from perunml.client.home import write_file

    def kept(receipt: ReceiptFile) -> None:
        if receipts is not None:
            write_file(receipts / f"{receipt.request_digest.removeprefix('sha256:')}.json", receipt.encode())

    with settings.client(manager=manager) as client:
        proxy = client.proxy(
            run,
            listen=listen,
            endpoint=endpoint,
            pad=pad,
            listen_beyond_this_machine=listen_beyond_this_machine,
            on_receipt=kept,
        )
        if receipts is not None:
            receipts.mkdir(parents=True, exist_ok=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: threading.Thread(target=proxy.stop).start())
        say_event(
            settings,
            {"event": "listening", "url": proxy.url, "run": run},
            f"listening on {proxy.url}, for run {run}; stop with Ctrl-C",
        )
        proxy.serve()
