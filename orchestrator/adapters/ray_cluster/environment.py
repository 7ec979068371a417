"""Ray's environment for an embedded cluster: quiet, loopback, token. An entry point in the sense of the style rules:
Ray takes these settings from environment variables only."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
from collections.abc import Iterator

# Nothing leaves the machine, nothing is written to the terminal, no extra agents.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_TQDM_PATCH_PRINT": "0",
    # Serve's proxies leave a request's time limit to the replica (serving/http/proxy.py).
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.http.proxy:middlewares",
}


@contextlib.contextmanager
def loopback_environment() -> Iterator[None]:
    """Set Ray's quiet defaults where the user has set nothing, and take them back on leaving."""
    added = {name: value for name, value in QUIET.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def sigterm_stays() -> Iterator[None]:
    """Around `ray.init`, which takes SIGTERM for itself: a handler that the process had before has it again after."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def require_token() -> bool:
    """Make clusters started by this process ask for a random token; returns whether they will.

    A choice made by the user (RAY_AUTH_MODE) is left alone. The token stays in this process for its whole life: Ray's
    background threads read it again while a cluster goes down, and end the process when it is gone by then.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is not None:
        return mode.lower() == "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    return True
