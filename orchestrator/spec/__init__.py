"""YAML to frozen specs: reads, checks, and reports every problem of a file at once with file:line:column.

Refuses to know anything that happens after reading: no Ray, no clock, no network, no database.
"""
