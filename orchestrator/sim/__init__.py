"""A virtual world behind the same ports: event queue, virtual cluster, recorded traces.

Owns physics (arrivals, step time, failures, transfer time), never choices. `reference/` holds published policies to
compare with, never a copy of ours.
"""
