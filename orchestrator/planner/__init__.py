"""Pure estimates: FLOPs, memory, time, money, energy and compute-optimal sizes, each with its assumptions.

Refuses to know what is running: it answers 'what would it take', never 'who may have it'.
"""
