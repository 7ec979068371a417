"""The command line `tide`: parses, calls, prints. Data on stdout, everything else on stderr.

Refuses to hold logic that the API or a test would want without a terminal.
"""
