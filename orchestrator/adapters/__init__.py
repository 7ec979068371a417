"""The outside world behind the ports: Ray clusters, Ray Train, Ray Tune, Ray Serve, clocks.

Adapters execute; they never choose. A choice found here belongs into `orchestrator.policy`.
"""
