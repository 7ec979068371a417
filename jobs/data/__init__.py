"""Corpora packed into shards: identity by manifest hash, verified on the way in, memory-mapped on the way out.

Refuses to know the order in which samples are used: that is the sample stream's.
"""
