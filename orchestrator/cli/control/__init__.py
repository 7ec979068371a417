"""Verbs of the control plane: each asks the API and prints; nothing is decided or stored here."""
