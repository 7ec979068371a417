"""Hyperparameter trials: what runs inside one trial of a study.

A trial is a job that stops to be measured: the same ranks, engine, sample stream and state as any training run, with a
report at given steps, after which it waits to be told whether to go on. Refuses to hold a budget or to compare itself
with others: the study's driver does.
"""
