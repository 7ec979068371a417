"""The process of one endpoint: reads orders, deploys it on Ray Serve, holds it to its lease, and reports every attempt.

The twin of a job's process (`adapters.jobs.process`, which calls `serve_endpoint`). Replicas outlive it: one that is
killed is started again on the same lease and finds them answering. A stop lets them finish, and takes them down.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from orchestrator.adapters.endpoints.life import Life
from orchestrator.adapters.endpoints.rollout import Rollable, Rollouts, change_as_json
from orchestrator.adapters.endpoints.roster import Roster
from orchestrator.adapters.endpoints.sight import Sight, write_sight
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.log_writer import LogWriter
from orchestrator.adapters.jobs.orders import DiskPatience, Orders
from orchestrator.policy.lending.rates import Counter
from orchestrator.policy.queueing.orders import Phase, Report
from orchestrator.registry import Registry
from orchestrator.spec.errors import UserError

TICK_S = 0.2
COUNT_S = 1.0
LOOK_S = 5.0


class Replicas(Rollable, Protocol):
    """An endpoint as `ray_serve.held.HeldEndpoint` is one."""

    @property
    def urls(self) -> dict[str, str]:
        """Its addresses, by tier."""
        ...

    @property
    def life(self) -> Life:
        """What its replicas are made of."""
        ...

    def lease(self, seats: Mapping[str, int]) -> None:
        """Hold so many on these nodes."""
        ...

    def settle(self) -> bool:
        """Bring those back that sit elsewhere; whether that is under way."""
        ...

    def extra(self, *, rolling: bool) -> int:
        """How many may be there beyond the lease just now."""
        ...

    def nodes(self) -> dict[str, int]:
        """Where they are."""
        ...

    def count(self) -> Any:
        """How many there are."""
        ...

    def arrivals(self) -> tuple[Counter, ...]:
        """Requests by replica."""
        ...

    def refresh(self) -> tuple[str, ...]:
        """Follow the registry; what there is to say of it."""
        ...

    def overtaken(self) -> Life | None:
        """What replicas must become to follow it, where they cannot as they are."""
        ...

    def canary(self) -> dict[str, Any] | None:
        """The version on trial."""
        ...

    def close(self) -> None:
        """Take it down in order."""
        ...


class Keeper:
    """Holds one endpoint to the newest order and the newest file in its folder, tick by tick. Used from one thread."""

    def __init__(self, folder: JobFolder, held: Replicas, log: LogWriter, now_s: Callable[[], float]) -> None:
        self._folder = folder
        self._held = held
        self._log = log
        self._now_s = now_s
        self._roster = Roster(folder.job)
        self._rollouts = Rollouts(folder, held, log.say)
        self._orders = Orders(folder)
        self._said: tuple[Report, ...] = ()
        self._reported_s = self._followed_s = float("-inf")
        self._answered = False
        self._leased: dict[str, int] = {}
        self._nodes: dict[str, int] = {}

    def begin(self) -> bool:
        """Take the order that started this process, and carry it out; False for one to stop: what another process has
        started is then still to be taken down, and nothing is started. Raises: UserError.
        """
        if self._told_to_stop():
            return False
        if (last := self._last_said()) is not None:
            self._roster.resume(last, self._now_s())
        self._leased = self._roster.seats
        self._rollouts.begin(self._leased)
        self._log.say(f"{self._held.life.ref} at {', '.join(sorted(set(self._held.urls.values())))}")
        return True

    def tick(self, counters: tuple[Counter, ...]) -> bool:
        """Carry out what has come and say how things are; False once it was asked to stop."""
        if self._told_to_stop():
            return False
        if self._roster.seats != self._leased:
            self._leased = self._roster.seats
            self._held.lease(self._leased)
        self._rollouts.look()
        if self._now_s() - self._followed_s >= COUNT_S:
            self._followed_s = self._now_s()
            self._rollouts.follow()
        if self._rollouts.is_moving:
            self._nodes = {}  # where they were says nothing of where they are
        count = self._held.count()
        if count.failed is not None and not self._rollouts.is_moving:
            raise RuntimeError(count.failed)
        self._answered = self._answered or count.answering > 0
        self._roster.see(answering=count.answering, present=count.present, now_s=self._now_s())
        beyond = max(0, count.present - sum(self._leased.values()))  # those of a process before, too
        moving = self._rollouts.is_moving
        self._report(counters, count.answering, max(self._held.extra(rolling=moving), beyond if moving else 0))
        return True

    def gone(self) -> None:
        """Nothing of it is left."""
        self._folder.leave_nothing()

    def finish(self, phase: Phase, detail: str, *, final: bool = False) -> None:
        """It has ended: say how."""
        self._log.say(f"the end: {phase}" + (f": {detail}" if detail else ""))
        for report in self._roster.finish(phase, detail, final=final) or self._end_of_another(phase, detail):
            self._log.end(report.attempt)
            self._folder.write_report(report)

    def _end_of_another(self, phase: Phase, detail: str) -> tuple[Report, ...]:
        """The end of the attempt of a process that died: what that one had reported stays."""
        order = self._orders.newest
        if order is None:
            return ()
        known = self._last_said() or Report(job=self._folder.job, attempt=order.attempt, phase=phase)
        return (replace(known, phase=phase, detail=detail),)

    def _last_said(self) -> Report | None:
        """What a process before has said of the newest order."""
        order = self._orders.newest
        if order is None:
            return None
        return next((one for one in self._folder.read_reports() if one.attempt == order.attempt), None)

    @property
    def has_answered(self) -> bool:
        """Whether any replica was seen to answer."""
        return self._answered

    def look_around(self) -> None:
        """See where replicas are, and let other weights answer where the model's alias has moved.

        Trouble with either is said and tried again: what is served goes on.
        """
        try:
            self._nodes = self._held.nodes()
            self._rollouts.try_again()
            if not self._rollouts.is_moving and not self._held.settle():
                self._follow_registry()
        except Exception as error:
            self._log.say(f"could not look around: {type(error).__name__}: {error}")

    def _follow_registry(self) -> None:
        for line in self._held.refresh():
            self._log.say(line)
        if self._held.life != self._rollouts.begun.now:
            self._rollouts.served(self._held.life)
        if (life := self._held.overtaken()) is not None:
            self._rollouts.become(life)

    def _told_to_stop(self) -> bool:
        """Take an order that has come; whether it ends this process."""
        letter = self._orders.take()
        if letter is not None:
            self._roster.take(letter)
            self._log.attempt = max(self._log.attempt, letter.attempt)
            self._log.say("asked to stop" if letter.stop else f"order {letter.id}: {letter.workers} replicas")
        return self._orders.wants_stop(self._now_s()) > 0

    def _report(self, counters: tuple[Counter, ...], answering: int, extra: int) -> None:
        """Ends are said at once, the rest once a second."""
        reports, now_s = self._roster.reports(), self._now_s()
        phases = tuple((one.attempt, one.phase) for one in reports)
        if phases == tuple((one.attempt, one.phase) for one in self._said) and now_s - self._reported_s < COUNT_S:
            return
        self._said, self._reported_s = reports, now_s
        for report in reports:
            self._folder.write_report(report)
            if report.over:
                self._log.end(report.attempt)
                self._roster.forget(report.attempt)
        sight = Sight(
            answering=answering,
            counters=counters,
            cold_starts_s=tuple(self._roster.cold_starts_s),
            urls=dict(self._held.urls),
            ref=self._held.life.ref,
            nodes=self._nodes,
            rollout=change_as_json(self._rollouts.change),
            extra=extra,
            canary=self._held.canary(),
        )
        write_sight(self._folder.path, sight)


def serve_endpoint(folder: JobFolder, document: Mapping[str, Any], around: Mapping[str, Any], log: LogWriter) -> None:
    """Be an endpoint's process until it ends. The folder is ours already, and the process is not connected to Ray."""
    from orchestrator.adapters.jobs.process import connected
    from orchestrator.adapters.ray_cluster.loopback import for_ray_init
    from orchestrator.adapters.ray_serve.held import HeldEndpoint

    home, name = Path(around["home"]), str(document["metadata"]["name"])
    held = HeldEndpoint(registry=Registry(home / "models"), base=home, name=name)
    keeper = Keeper(folder, held, log, time.time)
    try:
        with connected(for_ray_init(around["ray"])):
            phase, detail, final = _keep(keeper, held)
    except Exception as error:
        traceback.print_exc()
        phase, detail, final = Phase.LOST, f"Ray was lost: {error}", False
    keeper.finish(phase, detail, final=final)


def _keep(keeper: Keeper, held: Replicas) -> tuple[Phase, str, bool]:
    """Serve to an end of any kind; what is wrong with the endpoint itself would be wrong again, and takes it down."""
    from orchestrator.adapters.ray_serve.shared import is_lost

    counting = _Counting(held.arrivals)
    try:
        if keeper.begin():
            _hold(keeper, counting)
    except UserError as error:
        phase, detail, final = Phase.FAILED, str(error), True
    except Exception as error:
        traceback.print_exc()
        if is_lost(error):
            return Phase.LOST, f"Ray was lost: {error}", False
        phase, detail, final = Phase.FAILED, f"{type(error).__name__}: {error}", not keeper.has_answered
    else:
        phase, detail, final = Phase.STOPPED, "its replicas have finished", False
    finally:
        counting.ended.set()
    held.close()
    keeper.gone()
    return phase, detail, final


def _hold(keeper: Keeper, counting: _Counting) -> None:
    """Serve until it is asked to stop."""
    counting.start()
    refreshed_s, disk = time.monotonic(), DiskPatience()
    while True:
        with disk():
            if not keeper.tick(counting.last):
                return
        if time.monotonic() - refreshed_s > LOOK_S:
            refreshed_s = time.monotonic()
            keeper.look_around()
        time.sleep(TICK_S)


class _Counting:
    """A thread that asks replicas for their counters: one that answers late must not hold up an order."""

    def __init__(self, arrivals: Callable[[], tuple[Counter, ...]]) -> None:
        self._arrivals = arrivals
        self.last: tuple[Counter, ...] = ()
        self.ended = threading.Event()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="counting", daemon=True).start()

    def _run(self) -> None:
        while not self.ended.wait(COUNT_S):
            try:
                self.last = self._arrivals()
            except Exception as error:  # demand that is not known grows stale, and nothing is lent on it
                print(f"replicas could not be asked: {type(error).__name__}: {error}", flush=True)  # noqa: T201
