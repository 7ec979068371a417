"""Durable state: tables, migrations and one repository (`repository.Ledger`). One transaction is one change of state.

Refuses to decide anything: what is written here was decided by the control cycle or asked for by a person.
"""
