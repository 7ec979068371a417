"""Which parts of an Endpoint this version carries out; the others are errors, not silence."""

from __future__ import annotations

from pathlib import Path

from orchestrator.spec import Endpoint
from orchestrator.spec.errors import ExitCode, UserError
from serving.http.keys import read_keys


def check_supported(endpoint: Endpoint) -> None:
    """Raises: UserError that names every key which would have no effect."""
    spec = endpoint.spec
    unsupported = {
        "replicas.min: 0": spec.replicas.min == 0,
        "variants": bool(spec.variants),
        "canary with engine echo or vllm": spec.canary is not None and spec.engine.name != "torch",
        "engine.precision: int8 with engine vllm": spec.engine.name == "vllm" and spec.engine.precision == "int8",
    }
    named = [key for key, present in unsupported.items() if present]
    if named:
        raise UserError(
            f"this version does not carry out {', '.join(named)}",
            where=f"Endpoint {endpoint.metadata.name}",
            code=ExitCode.NEVER,
            next_step="Leave it out to serve with what there is.",
        )


def check_keys(endpoint: Endpoint, base: Path) -> None:
    """Raises: UserError for a keys file by which no replica could let anybody in; `base` as in `deploy`."""
    if endpoint.spec.keys is not None:
        read_keys(base / endpoint.spec.keys)
