"""The choices of a search: what may be drawn, what it may cost, when it stops paying, who gets which workers.

Frozen values in, decisions out. Refuses to know who draws, who runs and what time it is.
"""
