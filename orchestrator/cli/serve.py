"""`tide serve`: a registered model on this machine, until Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.foreground import refuse_without_effect
from orchestrator.cli.home import home_dir
from orchestrator.cli.observe import configure_logging
from orchestrator.cli.output import Format, Output, emit
from orchestrator.registry import Registry
from orchestrator.spec import Endpoint, load_one

if TYPE_CHECKING:
    from orchestrator.adapters.ray_serve import Deployed

_REFRESH_S = 5.0

app = typer.Typer(help="Serve a registered model behind OpenAI-compatible routes.")
_EXAMPLE_PROMPT = "def fibonacci(n):"


@app.command()
def serve(
    file: Annotated[Path, typer.Argument(help="YAML of kind Endpoint.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Start a Ray cluster on this machine, deploy the endpoint, print its address, and serve until Ctrl-C."""
    endpoint = load_one(file, Endpoint)
    refuse_without_effect(endpoint, file)
    home = home_dir()
    configure_logging(home)
    registry = Registry(home / "models")
    registry.get(endpoint.spec.model)  # an unknown model is said before seconds are spent on a cluster
    from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize  # Ray takes a second to import
    from orchestrator.adapters.ray_serve import check_keys, check_supported, deploy

    check_supported(endpoint)
    check_keys(endpoint, file.parent)
    _say(f"starting Ray and {endpoint.spec.replicas.min} replica(s) of {endpoint.spec.model} ...")
    resources = endpoint.spec.replicas.resources
    num_replicas = _most_at_once(endpoint)
    size = NodeSize(
        num_cpus=resources.CPU * num_replicas,
        num_gpus=math.ceil(resources.GPU * num_replicas),
        resources={name: amount * num_replicas for name, amount in resources.custom.items()},
    )
    with LocalCluster((size,)), contextlib.ExitStack() as cleanup:
        deployed = deploy(endpoint, registry, base=file.parent)
        cleanup.callback(deployed.close)
        curl = _curl(next(iter(deployed.urls.values())), deployed.model, with_key=endpoint.spec.keys is not None)
        document = {"name": deployed.name, "url": deployed.url, "model": deployed.ref, "curl": curl}
        emit("RunningEndpoint", document, output, table=f"{deployed.ref} answers at {deployed.url}\n{curl}")
        sys.stdout.flush()
        _say(f"{_who_gets_in(endpoint)}; Ctrl-C stops it")
        _wait_for_the_end(deployed)
        _say(f"stopping; online answers end, batch requests get up to {endpoint.spec.replicas.drain:g} s ...")
    _say("stopped; registered models are kept")


def _who_gets_in(endpoint: Endpoint) -> str:
    if endpoint.spec.keys is None:
        return "without a keys file it answers this machine only"
    return f"it answers whoever has a key of {endpoint.spec.keys} ('tide keys create' makes one)"


def _curl(url: str, model: str, *, with_key: bool) -> str:
    key = ' -H "authorization: Bearer $TIDE_API_KEY"' if with_key else ""
    body = f'{{"model": "{model}", "prompt": "{_EXAMPLE_PROMPT}", "max_tokens": 64}}'
    return f"curl {url}/v1/completions{key} -H 'content-type: application/json' -d {shlex.quote(body)}"


def _most_at_once(endpoint: Endpoint) -> int:
    """Replicas that must fit: all that there may be, and one more in each pool while they are replaced."""
    pools = len(endpoint.spec.tiers.present()) if endpoint.spec.placement == "dedicated" else 1
    replicas = endpoint.spec.replicas
    return pools * (max(replicas.min, replicas.max) + 1)


def _wait_for_the_end(deployed: Deployed) -> None:
    """Follow the registry until Ctrl-C or SIGTERM; further ones are ignored, so that nobody cuts the cleanup short."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts background programs with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        trouble = ""
        while not threading.Event().wait(_REFRESH_S):
            trouble = _refresh(deployed, trouble)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _refresh(deployed: Deployed, before: str) -> str:
    """One look at the registry; trouble is returned, said once while it lasts, and tried again at the next."""
    try:
        if deployed.refresh():
            back = deployed.canary_taken_back
            _say(f"{deployed.ref} answers now" + (f"; the canary was taken back ({back})" if back else ""))
    except Exception as error:  # what is served goes on
        if str(error) != before:
            _say(f"could not follow the registry: {error}")
        return str(error)
    return ""


def _say(line: str) -> None:
    typer.echo(line, err=True)
