"""The HTTP API of the control plane: routes, keys and roles, problem documents, streams, and its process.

Refuses to decide who gets devices, and to write anywhere but through the ledger, from one thread.
"""
