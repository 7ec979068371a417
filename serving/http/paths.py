"""Where a request goes inside the application, wherever the application is mounted."""

from __future__ import annotations

from starlette.types import Scope


def path_inside(scope: Scope) -> str:
    """The path below the mount: tiers with replicas of their own live below `/keystroke` and so on."""
    path, mount = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(mount) if path.startswith(f"{mount}/") else path
