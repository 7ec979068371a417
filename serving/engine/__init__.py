"""Token engines behind one protocol: prefill, decode, park, free.

Refuses to choose which row runs: the tier policy does.
"""
