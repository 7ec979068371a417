"""What of an Endpoint may become something else while it runs, and what of it replicas are built from."""

from __future__ import annotations

from typing import Any

from orchestrator.spec.endpoint import Endpoint


def fixed_while_served(running: Endpoint, wanted: Endpoint) -> tuple[str, ...]:
    """Keys in which `wanted` differs, and which would need another address or another set of applications."""
    pairs = {
        "metadata.name": (running.metadata.name, wanted.metadata.name),
        "spec.listen": (_address(running), _address(wanted)),
        "spec.placement": (running.spec.placement, wanted.spec.placement),
    }
    if running.spec.placement == "dedicated":
        pairs["spec.tiers"] = (running.spec.tiers.present(), wanted.spec.tiers.present())
    return tuple(key for key, (now, then) in pairs.items() if now != then)


def fixed_while_held(running: Endpoint, wanted: Endpoint) -> tuple[str, ...]:
    """The same for one that holds leases: its devices, and who pays for them, are in the books, too."""
    pairs = {
        "metadata.tenant": (running.metadata.tenant, wanted.metadata.tenant),
        "spec.queue": (running.spec.queue, wanted.spec.queue),
        "spec.replicas.resources": (running.spec.replicas.resources, wanted.spec.replicas.resources),
    }
    differing = tuple(key for key, (now, then) in pairs.items() if now != then)
    return (*fixed_while_served(running, wanted), *differing)


def built_from(endpoint: Endpoint) -> dict[str, Any]:
    """What a replica reads only when it is built; the rest is followed while it answers, or is not the replica's.

    How many replicas there are and what they can bear is their owner's; a version on trial, and which version answers,
    reach a running replica with their rules.
    """
    whole = endpoint.spec.model_dump(mode="json")
    spec = {key: value for key, value in whole.items() if key not in ("model", "queue", "canary", "notify")}
    replicas = {key: whole["replicas"][key] for key in ("resources", "drain")}
    return {"name": endpoint.metadata.name, **spec, "replicas": replicas}


def _address(endpoint: Endpoint) -> tuple[Any, ...]:
    listen = endpoint.spec.listen
    return listen.host, listen.port, listen.tls
