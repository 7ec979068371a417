"""The pools of a Cluster: which devices there are, what they cost, where they stand, and where they are counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import SpecModel, without_effect
from orchestrator.spec.fields import (
    ApiUrl,
    Count,
    CountOrZero,
    Duration,
    FilePath,
    Flag,
    Money,
    Name,
    OneOf,
    Positive,
    Size,
    Text,
    TopologyPath,
    Word,
)
from orchestrator.spec.problems import Code, Finding


class RayCapacity(SpecModel):
    """Devices are counted on the living nodes of a Ray cluster."""

    source: Literal["ray"]
    """Ray's view of its nodes."""
    labels: Mapping[Text, Text] = Field(default_factory=dict)
    """Only nodes that carry these labels; none = all that have the resource."""


class KubeRayCapacity(SpecModel):
    """Devices are counted on the worker group of a RayCluster in Kubernetes: pods that Ray has as living nodes."""

    source: Literal["kuberay"]
    """The Kubernetes API and Ray's view of its nodes."""
    namespace: Name = "default"
    """Where the RayCluster lives."""
    cluster: Name
    """The RayCluster; `ray.address` must lead to its head."""
    group: Name
    """Its worker group."""
    api: ApiUrl | None = None
    """The API server; none = that of the Kubernetes cluster in which the server itself runs."""
    token_file: FilePath | None = None
    """A file with the bearer token, read for every request; none = that of the pod's service account."""
    ca_file: FilePath | None = None
    """The authority that signed the API server's certificate; none = the service account's, or the system's."""
    scale: Flag = False
    """Set the size of the group to what jobs can use, within its minReplicas and maxReplicas; false = only read it."""
    idle: Duration = 600.0
    """With scale: nodes on which nobody held anything for so long are given back."""

    def cross_check(self) -> Iterator[Finding]:
        if not self.scale:
            yield from without_effect(self, ("idle",), "nothing is given back where scale is false")
        if self.api is None:
            yield from without_effect(self, ("token_file", "ca_file"), "the pod's service account is used without api")
        elif self.token_file is None:
            want = "a pod's own token is for its own API server: api needs the file with its token"
            yield Finding(("token_file",), Code.MISSING_KEY, "is missing", want, "Name the file")


class TraceCapacity(SpecModel):
    """Devices are read from a recorded series, for simulation and rehearsal."""

    source: Literal["trace"]
    """A CSV file: time, then one column per pool."""
    trace: FilePath
    """The file, relative to this one."""
    column: Text
    """The column of this pool."""
    loss: Annotated[Literal["drop", "debounced"], OneOf()] = "drop"
    """What a falling count means: devices are gone at once, or only when the next probe is low, too."""


CapacitySource = Annotated[RayCapacity | KubeRayCapacity | TraceCapacity, Field(discriminator="source")]


class Pool(SpecModel):
    """Interchangeable devices of one kind, price and place."""

    name: Name
    """What queues, tenants and reports call it."""
    device: Text
    """The kind of device, as the planner's hardware table names it."""
    resource: Word = "GPU"
    """The Ray resource of which one device is 1."""
    devices_per_node: Count = 1
    """Devices that come and go together."""
    market: Annotated[Literal["spot", "on_demand"], OneOf()]
    """spot = may be taken away; on_demand = stays."""
    price: Money
    """US dollars for one device for one hour."""
    price_series: FilePath | None = None
    """CSV of prices over time, instead of the fixed one."""
    carbon_series: FilePath | None = None
    """CSV of grams of CO2 per kWh over time."""
    power_w: Positive | None = None
    """Draw of one device under load, in watts; none = no energy is reported or budgeted."""
    zone: Text | None = None
    """The failure domain: devices of one zone are lost together."""
    topology: TopologyPath | None = None
    """Where it stands in the tree of places, widest first."""
    capacity: CapacitySource
    """Where its devices are counted."""
    count: CountOrZero | None = None
    """The most devices that are ever held; none = all that are seen."""
    notice: Duration = 0.0
    """The warning its provider gives before devices vanish; 0 = none."""


class Level(SpecModel):
    """One level of the tree of places: what crossing it costs."""

    name: Name
    """What the level is called: region, zone, rack, ..."""
    bandwidth_per_s: Size | None = None
    """Bytes per second between two places that differ at this level."""
    latency: Duration | None = None
    """One way between two such places."""
