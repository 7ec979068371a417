"""What runs in a training worker and beside it on its node: loop, engine, elastic state, samples, keepers, notices.

Refuses to choose a world size: it executes the one it is given and says what that cost.
"""
