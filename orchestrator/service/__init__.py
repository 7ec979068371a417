"""The live control plane: the thread that runs the control cycle, and the ports it runs on.

Refuses to decide: what is decided, `orchestrator.cycle` and the policies behind it decide.
"""
