"""References to registered models on the command line, and the registry they are looked up in."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.home import home_dir
from orchestrator.registry import Registry
from orchestrator.spec.errors import UserError


def open_registry() -> Registry:
    """The registry in the state folder."""
    return Registry(home_dir() / "models")


def version_names(incomplete: str) -> list[str]:
    """Models, or behind an '@' the versions and aliases of one, for the shell to complete."""
    try:
        registry = open_registry()
        name, at, _ = incomplete.partition("@")
        if not at:
            return [model for model in registry.models() if model.startswith(incomplete)]
        selectors = [*(str(version.number) for version in registry.versions(name)), *registry.aliases(name), "latest"]
    except (UserError, OSError):
        return []
    return [f"{name}@{one}" for one in selectors if f"{name}@{one}".startswith(incomplete)]


Ref = Annotated[
    str,
    typer.Argument(help="name, name@3, name@latest or name@alias.", show_default=False, autocompletion=version_names),
]
