"""Pure tier scheduling: order, step budgets, admission, retry-after, replica targets.

Refuses to know torch, Ray, clocks and sockets; the replica and its simulator call the same functions.
"""
