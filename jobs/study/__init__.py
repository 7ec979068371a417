"""Hyperparameter trials: what runs inside one trial of a study.

Refuses to hold a budget: the control plane does.
"""
