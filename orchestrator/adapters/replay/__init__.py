"""Recorded comings and goings of spot nodes, played against real local Ray nodes while a real job trains.

Refuses to know policies: how the job follows is decided where it always is.
"""

from orchestrator.adapters.replay.player import Player
from orchestrator.adapters.replay.recording import NodeEvent, load_node_events, share_of

__all__ = ["NodeEvent", "Player", "load_node_events", "share_of"]
