"""Logging of the command line: every record as one JSON line in a file, warnings as human lines on stderr."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog
from structlog.typing import Processor

_MAX_FILE_BYTES = 8 * 2**20
_KEPT_FILES = 3


def configure_logging(home: Path, *, verbose: bool = False) -> Path:
    """Send logs of this process to `home/logs/tide.jsonl` and to stderr; returns the file.

    stderr gets warnings, or everything with `verbose`; stdout stays free for data.
    """
    folder = home / "logs"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "tide.jsonl"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    to_file = RotatingFileHandler(path, maxBytes=_MAX_FILE_BYTES, backupCount=_KEPT_FILES, encoding="utf-8")
    to_file.setFormatter(_formatter(shared, structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()))
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setLevel(logging.INFO if verbose else logging.WARNING)
    to_terminal.setFormatter(_formatter(shared, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())))
    logging.basicConfig(level=logging.INFO, handlers=[to_file, to_terminal], force=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return path


def _formatter(shared: list[Processor], *rendering: Processor) -> logging.Formatter:
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[strip, *rendering])
