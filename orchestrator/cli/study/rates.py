"""What a device costs, from a Cluster's pool or from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.policy.study.values import Rates
from orchestrator.spec import Cluster, load_one
from orchestrator.spec.errors import ExitCode, UserError

ClusterFile = Annotated[Path | None, typer.Option("--cluster", help="A Cluster file whose pool prices devices.")]
PoolName = Annotated[str | None, typer.Option("--pool", help="Which pool of it; the first one by default.")]
Price = Annotated[float | None, typer.Option("--usd-per-device-hour", min=0.0, help="Price of a device for an hour.")]
Watts = Annotated[float | None, typer.Option("--watts-per-device", min=0.0, help="Draw of a device under load.")]
_FILE = "rates.json"


def rates_of(cluster: Path | None, pool: str | None, usd: float | None, watts: float | None) -> Rates:
    """What is given by hand stands before the pool's figures. Raises: UserError for an unknown pool."""
    price, power = None, None
    if cluster is not None:
        pools = load_one(cluster, Cluster).spec.pools
        names = [one.name for one in pools]
        chosen = next((one for one in pools if pool in (None, one.name)), None)
        if chosen is None:
            raise UserError(
                f"there is no pool {pool!r}; there are {', '.join(names)}", code=ExitCode.UNKNOWN, where=str(cluster)
            )
        price, power = float(chosen.price), chosen.power_w
    return Rates(usd_per_device_hour=price if usd is None else usd, watts_per_device=power if watts is None else watts)


def keep_rates(folder: Path, given: Rates) -> Rates:
    """Remember what a study's devices cost; what is not given again stays as it was."""
    before = kept_rates(folder)
    rates = Rates(
        usd_per_device_hour=_first(given.usd_per_device_hour, before.usd_per_device_hour),
        watts_per_device=_first(given.watts_per_device, before.watts_per_device),
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".{_FILE}.tmp"
    draft.write_text(json.dumps({"usd": rates.usd_per_device_hour, "watts": rates.watts_per_device}), encoding="utf-8")
    draft.replace(folder / _FILE)
    return rates


def kept_rates(folder: Path) -> Rates:
    """What a study's devices were said to cost."""
    path = folder / _FILE
    if not path.exists():
        return Rates()
    saved = json.loads(path.read_text(encoding="utf-8"))
    return Rates(usd_per_device_hour=saved["usd"], watts_per_device=saved["watts"])


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
