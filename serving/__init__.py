"""Answering requests: tier scheduling, token engines, HTTP routes, durable batches, the Ray Serve deployment.

Knows training only through the registered version it loads.
"""
