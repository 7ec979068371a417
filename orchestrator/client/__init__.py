"""A small typed client of the control plane's API: over a unix socket or a URL, with problems as errors.

Refuses to decide and to retry what may not be repeated; knows nothing of the ledger.
"""
