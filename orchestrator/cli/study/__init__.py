"""`tide study`: run a search, watch it, go on with it, and turn its best trial into a job."""

from orchestrator.cli.study.commands import app

__all__ = ["app"]
