"""Model builders and the task protocol that trainer and server share.

Refuses to know clusters, ranks and requests.
"""
