"""Ray clusters: connecting to one, and starting small ones on this machine.

Knows Ray's processes, folders and authentication. Refuses to know what runs on the cluster: jobs, endpoints and
leases belong to the rooms beside it.
"""

from orchestrator.adapters.ray_cluster.local import LocalCluster, LocalNode, NodeSize, num_local_gpus

__all__ = ["LocalCluster", "LocalNode", "NodeSize", "num_local_gpus"]
