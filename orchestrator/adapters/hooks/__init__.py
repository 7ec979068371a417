"""Calling other people's addresses: what is signed, who may be called, and one POST with an end.

Refuses to know jobs and ledgers: a message is an id, an address, a body and the name of a secret.
"""
