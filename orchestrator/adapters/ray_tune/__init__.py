"""Ray Tune's searchers and schedulers behind a study's `Strategy`, and trials as groups of ranks on a Ray cluster.

Refuses to decide budgets and sizes: the study's driver does. Tune's own controller is not used; why not is in
docs/decisions/0010-tune-without-its-controller.md.
"""
