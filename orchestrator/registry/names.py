"""Names of models, aliases and references such as `gpt-demo@champion`; text in, values out, no disk."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.registry.errors import RegistryError
from orchestrator.spec.names import NAME_PATTERN, matches

LATEST = "latest"
_ALIAS = re.compile(r"[a-z]([a-z0-9._-]{0,62}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """`name@selector`; the selector is a version number, an alias, or `latest` (also when it is left out)."""

    name: str
    selector: int | str = LATEST

    def __str__(self) -> str:
        return f"{self.name}@{self.selector}"


def parse_ref(text: str) -> ModelRef:
    """Read `name`, `name@3` or `name@alias`. Raises: RegistryError naming the part that is wrong."""
    name, at, selector = text.partition("@")
    check_model_name(name)
    if not at:
        return ModelRef(name=name)
    if selector.isascii() and selector.isdigit():
        return ModelRef(name=name, selector=int(selector))
    if not _ALIAS.fullmatch(selector):
        raise RegistryError(f"{text!r}: {selector!r} is neither a version number nor an alias",
                            next_step="Write name@3, name@latest or name@ALIAS.")  # fmt: skip
    return ModelRef(name=name, selector=selector)


def check_model_name(name: str) -> None:
    """Raises: RegistryError unless `name` is a name as specs have it: safe as a folder and in a URL."""
    if not matches(NAME_PATTERN, name):
        raise RegistryError(
            f"{name!r} cannot name a model; 1 to 63 lower-case letters, digits and '-', with a letter or digit at "
            "both ends, would be right"
        )


def check_alias(alias: str) -> None:
    """Raises: RegistryError for an alias that is malformed, or is `latest`, which always means the newest version."""
    if alias == LATEST:
        raise RegistryError("'latest' always names the newest version and cannot be set")
    if not _ALIAS.fullmatch(alias):
        raise RegistryError(f"{alias!r} cannot be an alias; a letter, then up to 63 of a-z 0-9 . _ -, would be right")
