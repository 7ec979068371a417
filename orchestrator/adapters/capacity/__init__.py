"""Where devices are counted: the nodes of a Ray cluster, or a recorded series.

Refuses to decide who gets them. A source that does not answer is out of sight, with its nodes as last seen.
"""
