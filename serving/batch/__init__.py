"""The durable batch store: files checked on upload, rows leased, committed once.

Refuses to know engines and HTTP; a row is a request and, later, its answer.
"""
