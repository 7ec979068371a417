"""Pure estimates: FLOPs, memory, time, money, energy and compute-optimal sizes, each with its assumptions.

Refuses to know what is running: it answers 'what would it take', never 'who may have it'. Every figure is a `Range`
(low, typical, high): a single number would hide that published figures for one and the same run differ by 7x.

Rooms, lowest first: `values` (ranges, checks) <- `hardware`, `model` <- `utilisation`, `memory`, `network`, `bill`,
`inference`, `scaling` <- `step_time`, `pipeline` <- `job` (a job at every world size), `budget` (what a budget buys).
"""
