"""Property tests here have no time limit of their own: the first use of a model builds it, and machines are shared."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
