"""Who may hold which devices now: quotas, fair shares, gangs, backfill, preemption, and a true reason for every wait.

`decide.decide_queues` is the whole; it reads one frozen `Snapshot` and answers with `Decisions`. Around it: `why`
explains one job and proves what would start it, `changes` are the edits that a what-if makes on a copy, `potential`
is the quantity that every preemption lowers. This room refuses to know clocks, ledgers, Ray and who asks.
"""
