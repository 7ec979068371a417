"""What a node's agent does about notices: it hears them, tells the run's driver and Ray, and lets the sources go on
when the node has been left.

Which sources a node listens to is the node's own business: its environment says so (an entry point in the sense of the
style rules), else the run's options, else what machine the firmware says it is. Free of Ray: the ways to driver and
cluster are two functions.
"""

from __future__ import annotations

import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from jobs.train.notices import gcp
from jobs.train.notices.machine import Cloud, cloud_of_this_machine, has_accelerator
from jobs.train.notices.values import Notice, SourceError
from jobs.train.notices.watch import HookConfig, NoticeConfig, NoticeWatch, SourceName
from jobs.train.notices.watcher import Pace
from orchestrator.adapters.ray_train.protocol import Announced

log = structlog.get_logger(__name__)

KNOWN = typing.get_args(SourceName)
AUTO, NONE = "auto", "none"
# One question to a metadata server; they answer in milliseconds or are not there.
CONNECT_S, READ_S = 2.0, 5.0
# A source that fails is asked at least so often; one that was never there, hardly ever.
FAILING_MOST_S, ABSENT_S, ABSENT_AFTER = 5.0, 300.0, 5
# A preStop hook is answered at the latest so long before the pod is killed.
HOOK_MARGIN_S = 5.0
# How long a server that can wait for news holds its answer.
HELD_ANSWER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticePlan:
    """Where the nodes of a run look for notices; a node's own environment overrides it.

    `sources` None: by what machine a node is. `file`: for the source `file`; a relative path lies in the node's folder.
    `deadline_s`: time left when a notice does not say.
    """

    sources: tuple[str, ...] | None = None
    file: str = ""
    poll_s: float = 1.0
    deadline_s: float = 30.0


def notice_config(
    plan: NoticePlan,
    environment: Mapping[str, str],
    host: str,
    *,
    cloud: Callable[[], Cloud | None] = cloud_of_this_machine,
    accelerated: Callable[[], bool] = has_accelerator,
) -> NoticeConfig:
    """What this node listens to. `host` is where a preStop hook would be served.

    Environment: TIDE_NOTICES (auto, none, or sources with commas), TIDE_NOTICE_FILE, TIDE_NOTICE_DEADLINE_S,
    TIDE_PRESTOP_PORT with TIDE_PRESTOP_TOKEN. Raises: ValueError that names the variable.
    """
    file = _file(environment.get("TIDE_NOTICE_FILE", plan.file), environment.get("TIDE_NODE_DIR", ""))
    deadline_s = _number(environment, "TIDE_NOTICE_DEADLINE_S", plan.deadline_s)
    hook = _hook(environment, host, deadline_s)
    named = environment.get("TIDE_NOTICES", AUTO).strip()
    if named == AUTO and plan.sources is not None:
        sources = plan.sources
    elif named == AUTO:
        found = (cloud(), "kubernetes" if hook else None, "file" if file else None)
        sources = tuple(source for source in found if source)
    else:
        sources = () if named == NONE else tuple(part.strip() for part in named.split(","))
    return NoticeConfig(
        sources=_known(sources),
        deadline_s=deadline_s,
        pace=Pace(
            interval_s=plan.poll_s,
            wait_s=HELD_ANSWER_S,
            most_s=FAILING_MOST_S,
            absent_s=ABSENT_S,
            absent_after=ABSENT_AFTER,
        ),
        connect_timeout_s=CONNECT_S,
        read_timeout_s=READ_S,
        file=file,
        hook=hook if "kubernetes" in sources else None,
        # Only a pod's first process gets its SIGTERM in time, and an agent never is that.
        signals=False,
        maintenance_s=gcp.MAINTENANCE_WITH_ACCELERATOR_S if accelerated() else gcp.MAINTENANCE_S,
    )


def _known(sources: tuple[str, ...]) -> tuple[SourceName, ...]:
    for source in sources:
        if source not in KNOWN:
            raise ValueError(
                f"TIDE_NOTICES: {source!r} announces nothing; it must be {AUTO}, {NONE}, or some of {', '.join(KNOWN)} "
                "with commas between them. Correct it in the node's environment"
            )
    return typing.cast("tuple[SourceName, ...]", sources)


def _file(named: str, node_dir: str) -> Path | None:
    return Path(node_dir) / named if named else None


def _hook(environment: Mapping[str, str], host: str, deadline_s: float) -> HookConfig | None:
    port = int(_number(environment, "TIDE_PRESTOP_PORT", 0))
    if not port:
        return None
    token = environment.get("TIDE_PRESTOP_TOKEN", "")
    if not token:
        raise ValueError(
            "TIDE_PRESTOP_TOKEN: is missing; without it anybody could end this node. Set it beside TIDE_PRESTOP_PORT, "
            "and as the header X-Tide-Token of the pod's hook"
        )
    return HookConfig(host=host, port=port, token=token, hold_s=max(0.0, deadline_s - HOOK_MARGIN_S))


def _number(environment: Mapping[str, str], name: str, otherwise: float) -> float:
    text = environment.get(name)
    if text is None:
        return otherwise
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name}: {text!r} is no number of 0 or more. Correct it in the node's environment")
    return number


class NoticeDesk:
    """Listens for one node. `announce` tells the driver, `drain` tells Ray; both are called from the sources' threads,
    and what fails is told again."""

    def __init__(
        self,
        node_id: str,
        config: NoticeConfig,
        *,
        announce: Callable[[Announced], None],
        drain: Callable[[float | None, str], None],
    ) -> None:
        """Raises: ValueError for a source that cannot be."""
        self._node_id = node_id
        self._announce = announce
        self._drain = drain
        self._heard: dict[tuple[str, str], Notice] = {}
        self._watch = NoticeWatch(config, self._on_notice)
        self._watch.start()

    def drained(self) -> None:
        """The node's work goes on elsewhere: whoever waits for that may go on."""
        heard, self._heard = self._heard, {}
        for notice in heard.values():
            try:
                self._watch.drained(notice)
            except SourceError as error:
                log.warning("the notice's source was not told", source=notice.source, error=str(error))

    def close(self) -> None:
        """Stop listening."""
        self._watch.close()

    def _on_notice(self, notice: Notice) -> None:
        now_s = time.time()
        self._announce(
            Announced(
                at_s=now_s,
                node_id=self._node_id,
                ends_at_s=None if notice.deadline_s is None else now_s + notice.deadline_s,
                detail=f"{notice.source}: {notice.detail}",
                advisory=notice.advisory,
            )
        )
        if not notice.advisory:
            self._heard[notice.source, notice.id] = notice
            self._drain(notice.deadline_s, notice.detail)
