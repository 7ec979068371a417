"""Endpoints on Ray Serve: a registered version behind an HTTP address.

Knows Serve's deployments, proxies and shutdown. Refuses to know tokens and tiers: a replica's inside is `serving`.
"""

from orchestrator.adapters.ray_serve.deploy import Deployed, deploy
from orchestrator.adapters.ray_serve.support import check_keys, check_supported

__all__ = ["Deployed", "check_keys", "check_supported", "deploy"]
