"""Durable state: tables, migrations and the one repository through which state changes.

Refuses to know why something changed; it makes sure that it changed once, balanced and for good.
"""
