"""The HTTP API: FastAPI routes over the repository and the control cycle.

Refuses to decide: it validates, authorises, stores and reads.
"""
