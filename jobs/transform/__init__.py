"""Transforms of trained models: merge, quantize, prune, measure.

Refuses to register anything: it turns directories into directories. Weights stream through in blocks, so that a
transform takes the same memory for a model of any size.
"""
