"""What is wrong with a study before it starts, beyond what its file alone can say."""

from __future__ import annotations

from typing import Any

from orchestrator.policy.study.budget import Limits, unknown_units
from orchestrator.policy.study.values import Rates
from orchestrator.spec import Study
from orchestrator.spec.errors import ExitCode, UserError

# What may differ when a study is taken up again: how far it goes, not what it searches.
_MAY_CHANGE = ("budget", "stop", "repeat", "concurrency")


def require_runnable(study: Study, rates: Rates) -> None:
    """Raises: UserError for a budget in a unit that nobody can measure here, or parts that do not go together."""
    spec = study.spec
    if unknown := unknown_units(Limits.of(spec.budget), rates):
        names = " and ".join(unknown)
        raise UserError(
            f"a budget in {names} needs to know what a device costs",
            where=f"{study.metadata.name}: spec.budget.{unknown[0]}",
            next_step="Give --cluster FILE with a pool, or --usd-per-device-hour and --watts-per-device",
        )
    if spec.stop is not None and rates.usd_per_device_hour is None:
        raise UserError(
            "weighing a trial's gain against its cost needs to know what a device costs",
            where=f"{study.metadata.name}: spec.stop",
            next_step="Give --cluster FILE with a pool, or --usd-per-device-hour",
        )
    if spec.scheduler.name == "pbt":
        _require_population(study)


def _require_population(study: Study) -> None:
    spec, where = study.spec, study.metadata.name
    if spec.searcher.name == "tpe":
        raise UserError(
            "tpe draws from what trials ended with, and trials of a population change on the way",
            where=f"{where}: spec.searcher.name",
            next_step="Use random or grid with pbt",
        )
    conditional = [key for key, parameter in spec.space.items() if parameter.when]
    if conditional:
        raise UserError(
            "pbt changes keys while a trial runs, and a condition would have to change with them",
            where=f"{where}: spec.space.{conditional[0]}.when",
            next_step="Drop the condition, or use another scheduler",
        )


def require_same(before: dict[str, Any], study: Study) -> None:
    """A study that is taken up again must search the same. Raises: UserError (conflict)."""
    old, new = before.get("spec", {}), study.to_document()["spec"]
    changed = [key for key in sorted({*old, *new}) if key not in _MAY_CHANGE and old.get(key) != new.get(key)]
    if changed:
        raise UserError(
            f"{', '.join(changed)} changed since the study began; only {', '.join(_MAY_CHANGE)} may",
            code=ExitCode.CONFLICT,
            where=study.metadata.name,
            next_step="Give the study another name, or start again with 'tide study run --fresh FILE'",
        )


def require_same_data(before: str, now: str, name: str) -> None:
    """Raises: UserError (conflict): results on other data cannot be compared."""
    if before and before != now:
        raise UserError(
            f"its data set was {before[:12]} and is {now[:12]} now: results would not compare",
            code=ExitCode.CONFLICT,
            where=name,
            next_step="Name the version of the data set in the template, or start again with --fresh",
        )
