"""Endpoints behind the port of the control cycle: what serving needs, from a recorded series of demand."""
