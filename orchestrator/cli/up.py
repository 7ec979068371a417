"""`tide up` and `tide down`: a control plane of one's own, without keeping a terminal for it."""

from __future__ import annotations

from typing import Any

import typer

from orchestrator.cli.control.connect import connected
from orchestrator.cli.control.server import stop
from orchestrator.cli.output import Format, Output, emit, make_table

up_app, down_app = typer.Typer(), typer.Typer()


@up_app.command()
def up(output: Output = Format.TABLE) -> None:
    """Start a control plane of your own, if none answers; it goes on without this command.

    'tide submit' and 'tide apply CLUSTER.yaml' do so by themselves, too.
    """
    with connected(start=True) as client:
        found: dict[str, Any] = {"server": str(client.place), **client.readiness()}
    emit("ServerStatus", found, output, table=make_table(("", ""), [(key, found[key]) for key in ("server", "status")]))


down_app.command(name="down")(stop)
