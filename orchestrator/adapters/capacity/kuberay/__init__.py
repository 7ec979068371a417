"""Worker groups of a RayCluster in Kubernetes: what they hold, and how large they are asked to be.

`api` speaks HTTP, `watch` keeps objects as they were last told, `objects` reads them, `source` counts devices, `sizing`
is the pure part of asking for nodes and giving them back, `groups` carries it out. Refuses to decide who gets devices.
Sources: KubeRay's `raycluster_types.go` and `raycluster_controller.go`; Ray's own KubeRay node provider.
"""
