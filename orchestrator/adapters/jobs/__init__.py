"""Training jobs behind the control plane's `Runner`: one detached process per job, spoken to through a folder.

Nobody's life depends on another's: the control plane writes orders and reads reports, the job's process reads orders
and writes reports, and either may be killed at any moment. Refuses to know how a job trains (`adapters.ray_train`) and
what is decided (`orchestrator.cycle`).
"""
