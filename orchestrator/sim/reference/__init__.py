"""Published and obvious policies to compare ours with, never a copy of ours.

Each follows its definition to the letter, so that the numbers of others can be checked against these.
"""
