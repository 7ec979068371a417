"""Pure decisions: batch plans, world sizes, admission, fairness, windows, lending, and their explanations.

A policy takes frozen values and `now_s` and returns a decision, its reason and the next state. This room refuses to
know Ray, clocks, randomness, databases and the network; the live system and the simulator call the same functions.
"""
