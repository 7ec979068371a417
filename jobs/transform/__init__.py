"""Transforms of trained models: merge, quantize, distil, prune, evaluate.

Refuses to register anything: it turns directories into directories.
"""
