"""How many devices of which pool a job should hold, as capacity comes and goes.

`view` is the port: what a capacity policy may see and what it answers. `tideline` is our policy, with its parts in
neighbouring files. This room refuses to know recorded series, the future, and who asks: the simulator and the control
cycle call the same functions with the same values.
"""
