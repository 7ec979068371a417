"""The rules of a Cluster: windows of wall time, lending between endpoints and training, notices, node health."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from orchestrator.spec.base import SpecModel, repeated, without_effect
from orchestrator.spec.fields import (
    ClusterAddress,
    Count,
    Duration,
    FilePath,
    Many,
    Name,
    NotNegative,
    OneOf,
    PositiveDuration,
    WallTime,
    Zone,
)
from orchestrator.spec.problems import Code, Finding

Day = Annotated[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], OneOf()]
EVERY_DAY: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Window(SpecModel):
    """A stretch of wall time in a zone, opened on the days named.

    An end before the start is on the next day: 22:00 to 06:00 on fri closes on Saturday at 06:00. Equal ends mean a
    whole day, from that time to the same time on the next day, because that is what people mean who write 00:00 to
    00:00. A window of zero length can therefore only be written as one without days, and that is refused. A change to
    or from daylight saving shortens or lengthens the window that holds it; one that lies inside the hour that is
    skipped does not open on that day.
    """

    name: Name
    """What jobs name."""
    start: WallTime
    """When it opens."""
    end: WallTime
    """When it closes; equal to start = a whole day."""
    timezone: Zone
    """The zone of both times."""
    days: Many[Day] = EVERY_DAY
    """The days on which it opens."""
    pools: Many[Name] = ()
    """The pools it opens; none = all."""
    grace: Duration = 120.0
    """Devices may be held for so long after the close, to save state."""

    def cross_check(self) -> Iterator[Finding]:
        if not self.days:
            want = "it must open on one day at least"
            yield Finding(("days",), Code.EMPTY, "makes a window of zero length", want, "Name days, or remove the key")
        yield from repeated(self.days, "days", key="")
        yield from repeated(self.pools, "pools", key="")


class Lending(SpecModel):
    """Devices of endpoints that training may use while the endpoints have fewer customers."""

    pools: Many[Name]
    """The pools whose idle devices are lent."""
    windows: Many[Name] = ()
    """Lend only while one of these is open; none = whenever the forecast allows."""
    history: PositiveDuration = 1_209_600.0
    """How much past demand the forecast reads."""
    jump_margin: NotNegative = 0.25
    """Headroom beyond the largest rise of demand that was seen within one recall, as a part of that rise."""
    min_slice: PositiveDuration = 1800.0
    """Nothing is lent for less than this."""
    recall_lead: PositiveDuration | None = None
    """How early devices are called back; none = measured: snapshot + drain + cold start of a replica, each at p95.
    Longer, where training was measured to let go more slowly than this leaves time for."""

    def cross_check(self) -> Iterator[Finding]:
        if not self.pools:
            yield Finding(("pools",), Code.EMPTY, "lends nothing", "it must name one pool at least")
        yield from repeated(self.pools, "pools", key="")
        yield from repeated(self.windows, "windows", key="")


class Notices(SpecModel):
    """Where nodes look for the warning that they will be taken away."""

    sources: Many[Annotated[Literal["aws", "gcp", "azure", "kubernetes", "file"], OneOf()]] = ()
    """Metadata servers of clouds, Kubernetes' SIGTERM, or a file that appears; none = no notices are looked for."""
    poll: PositiveDuration = 1.0
    """From one look to the next."""
    file: FilePath | None = None
    """The file whose appearance is a notice; it may hold the seconds that are left."""
    deadline: PositiveDuration = 30.0
    """Time that is left when the notice does not say."""

    def cross_check(self) -> Iterator[Finding]:
        yield from repeated(self.sources, "sources", key="")
        if "file" in self.sources and self.file is None:
            yield Finding(("file",), Code.MISSING_KEY, "is missing", "notices.sources names file", "Name the file")
        if "file" not in self.sources:
            yield from without_effect(self, ["file"], "notices.sources does not name file")
        if not self.sources:
            yield from without_effect(self, ["poll", "deadline"], "notices.sources is empty")


class Health(SpecModel):
    """When a node is held back from new work."""

    probe_every: PositiveDuration = 30.0
    """From one probe of a node to the next."""
    failed_probes: Count = 3
    """Probes in a row that must fail."""
    worker_deaths: Count = 3
    """Workers that must die on it by themselves ..."""
    within: PositiveDuration = 3600.0
    """... within this time."""
    hold: PositiveDuration = 1800.0
    """How long it is held back."""


class RayConnection(SpecModel):
    """The Ray cluster that runs the work."""

    address: ClusterAddress = "auto"
    """auto = the one on this machine; local = start one; else host:port of its head."""
    token_file: FilePath | None = None
    """File with the cluster's access token; none = Ray's own place for it."""
