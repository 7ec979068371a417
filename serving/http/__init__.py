"""OpenAI-compatible routes: shapes, errors, streaming, keys and limits.

Refuses to know how tokens are made.
"""
