"""Logs of attempts, for whoever serves them. Job processes write them, so that the archive is with these."""

from __future__ import annotations

from orchestrator.adapters.jobs.archive import FileLogArchive, LogArchive, LogChunk, LogPurgedError

__all__ = ["FileLogArchive", "LogArchive", "LogChunk", "LogPurgedError"]
