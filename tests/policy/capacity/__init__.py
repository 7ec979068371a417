"""Capacity policies, as properties over whole simulated runs."""
