"""All sources a node is told to listen to, each with its watcher: what a node agent starts and stops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from jobs.train.notices import aws, azure, gcp
from jobs.train.notices.aws import AwsSource
from jobs.train.notices.azure import AzureSource
from jobs.train.notices.file import FileSource
from jobs.train.notices.gcp import GcpKey, GcpSource
from jobs.train.notices.hook import HookSource
from jobs.train.notices.late import LateSource
from jobs.train.notices.metadata import MetadataClient
from jobs.train.notices.signals import SignalSource
from jobs.train.notices.values import Notice, NoticeSource, SourceError
from jobs.train.notices.watcher import NoticeWatcher, Pace, WatchState

SourceName = Literal["aws", "gcp", "azure", "kubernetes", "file"]
_DEFAULT_URLS = {"aws": aws.DEFAULT_URL, "gcp": gcp.DEFAULT_URL, "azure": azure.DEFAULT_URL}


@dataclass(frozen=True, slots=True, kw_only=True)
class HookConfig:
    """Where the preStop hook is served; `hold_s`: how long it may hold SIGTERM back."""

    host: str
    port: int
    token: str
    hold_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeConfig:
    """Where this node looks for notices.

    `sources` empty: nowhere. `urls`: metadata servers by source name, where not the cloud's own link-local address;
    an address is only ever asked if its source is named. `file`: for the source `file`. `deadline_s`: time left when a
    notice does not say. `hook`: the preStop hook of the source `kubernetes`; None leaves it SIGTERM alone, which is not
    listened to where `signals` is false: a process that is not the pod's first never gets it in time.
    `maintenance_s`: Google's notice before maintenance of this machine (an hour with accelerators). `vm_name`: Azure's
    name of this machine, "" asks. Timeouts bound one question.
    """

    sources: tuple[SourceName, ...]
    deadline_s: float
    pace: Pace
    connect_timeout_s: float
    read_timeout_s: float
    file: Path | None = None
    hook: HookConfig | None = None
    signals: bool = True
    maintenance_s: float = gcp.MAINTENANCE_S
    vm_name: str = ""
    urls: Mapping[str, str] = field(default_factory=dict)


def build_sources(config: NoticeConfig) -> list[NoticeSource]:
    """The sources that `config` names. With `kubernetes` and signals, call it in the main thread: it handles SIGTERM.

    A hook whose port is taken is tried again: another job's agent on this node may have it, and end first.
    Raises: ValueError for a source that cannot be (no file named, a bad URL, a hook without a token).
    """
    found: list[NoticeSource] = []
    try:
        for name in config.sources:
            found += _SOURCES[name](config)
    except BaseException:
        for source in found:
            source.close()
        raise
    return found


class NoticeWatch:
    """Listens to all sources; `on_notice` is called from their threads, once per notice."""

    def __init__(self, config: NoticeConfig, on_notice: Callable[[Notice], None]) -> None:
        """Raises: as `build_sources`."""
        self.sources = build_sources(config)
        self._watchers = [NoticeWatcher(source, on_notice, config.pace) for source in self.sources]

    def start(self) -> None:
        for watcher in self._watchers:
            watcher.start()

    def close(self) -> None:
        """Stop listening. In the main thread if `kubernetes` is among the sources."""
        for watcher in self._watchers:
            watcher.close()

    def states(self) -> dict[str, WatchState]:
        """How each source is doing, by its name."""
        return {source.name: watcher.state for source, watcher in zip(self.sources, self._watchers, strict=True)}

    def drained(self, notice: Notice) -> None:
        """The node is drained: tell the source that waits for it (Azure's acknowledgement, a held preStop hook).

        Raises: SourceError if it does not answer; its deadline then stands.
        """
        for source in self.sources:
            if source.name == notice.source and isinstance(source, AzureSource):
                source.acknowledge(notice)
            elif isinstance(source, LateSource) and isinstance(source.made, HookSource):
                source.made.release()


def _client(config: NoticeConfig, name: str) -> MetadataClient:
    return MetadataClient(
        config.urls.get(name, _DEFAULT_URLS[name]),
        connect_timeout_s=config.connect_timeout_s,
        read_timeout_s=config.read_timeout_s,
    )


def _aws(config: NoticeConfig) -> list[NoticeSource]:
    return [AwsSource(_client(config, "aws"))]


def _gcp(config: NoticeConfig) -> list[NoticeSource]:
    return [GcpSource(_client(config, "gcp"), key, maintenance_s=config.maintenance_s) for key in GcpKey]


def _azure(config: NoticeConfig) -> list[NoticeSource]:
    return [AzureSource(_client(config, "azure"), config.vm_name)]


def _kubernetes(config: NoticeConfig) -> list[NoticeSource]:
    found: list[NoticeSource] = [SignalSource(config.deadline_s)] if config.signals else []
    if config.hook:
        late = LateSource(HookSource.name, partial(_hook, config.hook, config.deadline_s))
        with contextlib.suppress(SourceError):  # made now where it can be
            late.poll(0)
        found.append(late)
    return found


def _hook(hook: HookConfig, grace_s: float) -> HookSource:
    return HookSource(hook.host, hook.port, token=hook.token, grace_s=grace_s, hold_s=hook.hold_s)


def _file(config: NoticeConfig) -> list[NoticeSource]:
    if config.file is None:
        raise ValueError("notices come from a file, but none is named")
    return [FileSource(config.file, config.deadline_s)]


_SOURCES: Mapping[SourceName, Callable[[NoticeConfig], list[NoticeSource]]] = {
    "aws": _aws,
    "gcp": _gcp,
    "azure": _azure,
    "kubernetes": _kubernetes,
    "file": _file,
}
