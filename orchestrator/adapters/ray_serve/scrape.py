"""One `/metrics` for all replicas of an endpoint.

A scrape through Serve's proxy reaches any one replica. Counters of several processes in turn look like resets, so the
one that is reached answers for all of them, each with its name in the label `replica`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.paths import path_inside

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_FAMILY = re.compile(r"_(total|bucket|count|sum)$")


class AllReplicas:
    """ASGI middleware. `ask_all` returns what each replica exports, by its name; the application has let the caller in
    and answered for itself before it is called."""

    def __init__(self, app: ASGIApp, ask_all: Callable[[], Awaitable[Mapping[str, str]]]) -> None:
        self._app = app
        self._ask_all = ask_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or path_inside(scope) != "/metrics":
            await self._app(scope, receive, send)
            return
        own: list[Message] = []

        async def keep(message: Message) -> None:
            own.append(message)

        await self._app(scope, receive, keep)
        if own[0]["status"] == 200 and (texts := await self._ask_all()):
            headers = {name.decode(): value.decode() for name, value in own[0]["headers"]}
            await Response(merged(texts), media_type=headers["content-type"])(scope, receive, send)
            return
        for message in own:
            await send(message)


def merged(texts: Mapping[str, str]) -> str:
    """Expositions of several replicas as one: each family once, its samples labelled with their replica."""
    comments: dict[str, list[str]] = {}
    samples: defaultdict[str, list[str]] = defaultdict(list)
    for replica, text in sorted(texts.items()):
        described: dict[str, list[str]] = {}
        for line in filter(None, text.splitlines()):
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                described.setdefault(_FAMILY.sub("", family), []).append(line)
            else:
                name = _name(line)
                samples[_FAMILY.sub("", name)].append(_labelled(line, name, replica))
        comments = {**described, **comments}
    families = dict.fromkeys([*comments, *samples])
    lines = (line for family in families for line in [*comments.get(family, ()), *samples[family]])
    return "".join(f"{line}\n" for line in lines)


def _name(sample: str) -> str:
    found = _NAME.match(sample)
    assert found is not None, sample
    return found[0]


def _labelled(sample: str, name: str, replica: str) -> str:
    rest = sample[len(name) :]
    label = f'replica="{replica}"'
    return f"{name}{{{label},{rest[1:]}" if rest.startswith("{") else f"{name}{{{label}}}{rest}"
