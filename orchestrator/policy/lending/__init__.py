"""The night: devices of endpoints that training may use while customers sleep, and how they come back in time.

Two questions, kept apart. What is safe to lend is answered by the demand of now and a reserve: the largest rise that
was ever seen within one recall, and a quarter more. What is worth lending is answered by a forecast. So a forecast that
is wrong by half costs device-hours and never an SLO. Values in, decision out; nothing here reads a clock or a metric.
"""
