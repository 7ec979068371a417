"""Ray Train behind our ports: executes the world size a lease names, loses nothing at a planned resize, and accounts
for every worker-second.

Ray Train stays the owner of the worker group and its start. This room adds what it lacks: a driver that decides when
(`driver.py`), an orderly exit (`supervisor.py`), processes that outlive a worker group (`node_agent.py`,
`standing.py`), truth about capacity (`capacity.py`) and the run's record (`record.py`). Everything private of Ray Train
that is touched is touched in `seam.py` and `standing.py`, and held by a contract test. The room refuses to know
tensors: what a rank computes is `jobs.train`'s business.
"""
