"""The demo as one story: what is started is on one stack, what is kept is said whatever ends it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from jobs.data import ensure_dataset, open_dataset
from jobs.models.ladder import Rung, ladder, place
from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_train.events import Event
from orchestrator.adapters.ray_train.record import RunRecord
from orchestrator.adapters.ray_train.record_store import load_events
from orchestrator.adapters.ray_train.run import RunOptions, RunResult, run_train_job
from orchestrator.adapters.ray_train.signals import StopSignals
from orchestrator.cli.demo.completion import complete
from orchestrator.cli.demo.console import Stages
from orchestrator.cli.demo.day_series import HOURS, find_day
from orchestrator.cli.demo.weather import Weather
from orchestrator.cli.live import LiveLine
from orchestrator.cli.output import make_table
from orchestrator.cli.run_report import run_report
from orchestrator.cli.submit import finish, put_aside
from orchestrator.cli.tier import tier_from_environment
from orchestrator.registry import Registry, Version
from orchestrator.report import Day, LadderRung, write_report
from orchestrator.spec import Endpoint, TrainJob, load_one
from orchestrator.spec.errors import ExitCode, UserError

if TYPE_CHECKING:
    from orchestrator.cli.demo.tiers import Tried

MAX_TOKENS = 120
# Beside the batch: enough keystrokes for a 99th percentile to mean something, short enough for a demo.
TIERS_S = 10.0


@dataclass(slots=True)
class Told:
    """What has come of the demo so far."""

    run: RunResult | None = None
    version: Version | None = None
    rungs: tuple[Rung, ...] = ()
    completion: str = ""
    first_token_s: float = 0.0
    tried: Tried | None = None
    day: Day | None = None
    kept: list[str] = field(default_factory=list)


class Story:
    """Runs the parts of the demo in order on one embedded Ray."""

    def __init__(self, *, home: Path, configs: Path, steps: int | None, prompt: str) -> None:
        self._home = home
        self._prompt = prompt
        self._series, self._is_short = find_day(configs), steps is not None
        self._job_file = configs / "jobs" / "demo.yaml"
        self._job = _shortened(load_one(self._job_file, TrainJob), steps)
        self._endpoint = _on_free_port(load_one(configs / "endpoints" / "demo.yaml", Endpoint))
        self._console = Console(stderr=True)
        self._stages = Stages(self._console)
        self._registry = Registry(home / "models")
        self._told = Told()

    def tell(self, parts: Sequence[str]) -> None:
        """Run `parts` ("train", "serve", "day"). Ctrl-C anywhere stops what was started and says what is kept."""
        try:
            with contextlib.ExitStack() as stack:
                if "train" in parts:
                    self._pack()
                else:
                    self._told.version = self._registry.get(self._endpoint.spec.model)
                self._start_ray(stack)
                if "train" in parts:
                    self._train()
                if "serve" in parts:
                    self._serve()
                if "day" in parts:
                    self._day()
            if "train" in parts:
                self._place()
            self._report()
        except KeyboardInterrupt:
            self._say_kept()
            raise typer.Exit(ExitCode.DETACHED) from None
        except UserError as error:
            if error.code is ExitCode.DETACHED:
                self._say_kept()
            raise
        self._summary()

    # -- the parts ----------------------------------------------------------------------------------------------

    def _pack(self) -> None:
        with self._stages.stage("data", "packing the sources of this Python's standard library"):
            folder = ensure_dataset(self._job.spec.data.dataset, self._home)
            manifest = open_dataset(folder).manifest
            self._stages.say(f"{manifest.name}: {manifest.num_bytes / 1e6:.1f} MB, manifest {manifest.hash[:12]}")
            self._told.kept.append(f"data set {folder}")

    def _start_ray(self, stack: contextlib.ExitStack) -> None:
        with self._stages.stage("ray", "starting a local Ray: loopback, with a token, no dashboard"):
            # The first node has room for the least that the job wants; what is above comes and goes.
            self._cluster = stack.enter_context(LocalCluster((NodeSize(num_cpus=self._job.spec.workers.min),)))

    def _train(self) -> None:
        job, workers = self._job, self._job.spec.workers
        what = f"{job.spec.steps} steps, {workers.min} to {workers.max} workers, ZeRO {job.spec.deepspeed.zero_stage}"
        put_aside(self._home, job.metadata.name)
        self._told.kept.append(f"run {self._home / 'runs' / job.metadata.name}")
        with self._stages.stage("train", what), StopSignals() as signals:
            with LiveLine(self._console, job.spec.steps) as live:
                weather = Weather(self._cluster, job.spec.steps, self._stages.say)

                def on_event(event: Event) -> None:
                    live(event)
                    weather(event)

                options = RunOptions(wants_stop=signals, tier=tier_from_environment())
                run = run_train_job(job, self._home, on_event=on_event, options=options)
            self._told.run = run
        with self._stages.stage("register", "evaluating on held-out text, then committing the version"):
            self._told.version = finish(job, run, self._home, self._job_file)
            if self._told.version:
                self._stages.say(f"{self._told.version.ref} in {self._home / 'models'}")
                self._told.kept.append(f"model {self._told.version.ref}")

    def _serve(self) -> None:
        from orchestrator.adapters.ray_serve import deploy

        version = self._told.version
        assert version is not None, "the demo's job registers a model"
        with contextlib.ExitStack() as stack:
            with self._stages.stage("serve", f"deploying {version.ref} on Ray Serve"):
                deployed = stack.enter_context(contextlib.closing(deploy(self._endpoint, self._registry)))
                self._stages.say(f"{deployed.url}/v1/completions")
            with self._stages.stage("complete", "asking it with the OpenAI client"):
                answer = complete(deployed.url, deployed.model, self._prompt, max_tokens=MAX_TOKENS)
                self._told.completion, self._told.first_token_s = answer.text, answer.first_token_s
            with self._stages.stage("tiers", f"keystrokes, chats and a batch at once, {TIERS_S:.0f} s"):
                from orchestrator.cli.demo.tiers import try_tiers  # brings the OpenAI client

                self._told.tried = try_tiers(deployed.url, self._endpoint, deployed.model, seconds=TIERS_S)

    def _day(self) -> None:
        from orchestrator.cli.demo.day import SECONDS, SHORT_SECONDS, play_day  # brings the control plane

        seconds = SHORT_SECONDS if self._is_short else SECONDS
        what = f"{HOURS:.0f} hours in {seconds:.0f} s: customers, spot nodes and a job on one Ray"
        with self._stages.stage("day", what), StopSignals() as signals:
            self._stages.say(f"the day: {self._series.source}")
            ensure_dataset(self._job.spec.data.dataset, self._home)
            self._told.day = play_day(
                self._home, self._cluster, self._series, self._job, self._endpoint,
                say=self._stages.say, signals=signals, seconds=seconds,
            )  # fmt: skip

    def _place(self) -> None:
        with self._stages.stage("ladder", "counting and compressing the same held-out text"):
            folder = ensure_dataset(self._job.spec.data.dataset, self._home)
            self._told.rungs = ladder(open_dataset(folder))

    def _report(self) -> None:
        run = self._told.run
        if run is None:
            return
        events = load_events(run.run_dir)
        record = RunRecord.of(run.run_id, events)
        page = run_report(
            record,
            events,
            title=f"Demo: {self._told.version.ref if self._told.version else run.run_id}",
            stages=self._stages.spans(record.first_at_s or 0.0),
            ladder=[LadderRung(name=name, bits_per_byte=bits, ours=ours) for name, bits, ours in self._ladder()],
            prompt=self._prompt if self._told.completion else "",
            completion=self._told.completion,
            day=self._told.day,
            facts=[("whole demo", f"{self._stages.total_s:.0f} s")],
            notes=self._told.kept,
        )
        self._told.kept.append(f"report {write_report(page, run.run_dir / 'report.html')}")

    # -- what is printed ----------------------------------------------------------------------------------------

    def _ladder(self) -> list[tuple[str, float, bool]]:
        """Name, bits per byte on held-out text, and whether it is ours; worst first."""
        rows = [(rung.name, rung.bits_per_byte, False) for rung in self._told.rungs]
        if self._told.version and (bits := self._told.version.provenance.metrics.get("bits_per_byte")):
            rows.append((self._told.version.ref, bits, True))
        return sorted(rows, key=lambda row: -row[1])

    def _summary(self) -> None:
        out = Console(soft_wrap=True)
        if self._told.rungs:
            rows = [("→" if ours else "", name, f"{bits:.3f}") for name, bits, ours in self._ladder()]
            out.print(make_table(("", "on held-out text", "bits/byte"), rows, right=("bits/byte",)), highlight=False)
        if self._told.run and self._told.version and self._told.rungs:
            bits = self._told.version.provenance.metrics["bits_per_byte"]
            climbed = place(bits, self._told.rungs)
            out.print(f"The model has climbed {climbed} of {len(self._told.rungs)} rungs.", highlight=False)
        if self._told.completion:
            out.print(f"\n{self._prompt}[dim]│[/]", end="", highlight=False)
            out.print(self._told.completion, markup=False, highlight=False)
            out.print(f"\nfirst token after {self._told.first_token_s * 1e3:.0f} ms", highlight=False)
        if self._told.tried:
            self._print_tiers(out, self._told.tried)
        if self._told.day:
            out.print(f"\n{day_line(self._told.day)}", highlight=False)
        self._say_kept()

    def _print_tiers(self, out: Console, tried: Tried) -> None:
        columns = ("tier", "service_tier", "answered", "refused", "p50", "p99", "promised", "in time")
        rows = [
            (wait.asking.tier, wait.asking.service_tier, len(wait.seconds), wait.refused,
             *map(_time, (wait.quantile_s(0.5), wait.quantile_s(0.99), wait.promised_s)),
             "-" if wait.in_time is None else f"{wait.in_time:.0%}")
            for wait in tried.waits
        ]  # fmt: skip
        out.print(f"\nAll tiers asked at once, {tried.seconds:.0f} s long, while a batch ran:", highlight=False)
        out.print(make_table(columns, rows, right=columns[2:]), highlight=False)
        rate = tried.batch_rows_done / tried.seconds
        done = f"{tried.batch_rows_done} of {tried.batch_rows} rows done ({rate:.1f} rows/s)"
        out.print(f"The batch: {done}, the rest cancelled.", highlight=False)

    def _say_kept(self) -> None:
        """Nothing runs any more; say what is on disk and how long it took."""
        self._console.print(f"Nothing is left running. {self._stages.total_s:.0f} s in all. Kept:", highlight=False)
        for line in self._told.kept or ["nothing"]:
            self._console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def day_line(day: Day) -> str:
    """What came of the day, in one line."""
    slowest = max((one.waited_s for one in day.requests if not one.problem), default=None)
    workers = [line.workers for line in day.lines if line.workers]
    sizes = f"{min(workers)} to {max(workers)}" if workers else "no"
    return (
        f"The day ({day.hours:.0f} h in {day.seconds:.0f} s): {day.late} of {len(day.requests)} requests late "
        f"(promised {_time(day.promised_s)}, slowest {_time(slowest)}); {day.devices_moved} devices moved, "
        f"{day.most_lent} of {day.replicas} replicas lent at most; the job followed with {sizes} workers."
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _shortened(job: TrainJob, steps: int | None) -> TrainJob:
    """The job with so many steps, without a gate: what a few steps reach says nothing."""
    if steps is None:
        return job
    registering = job.spec.register and job.spec.register.model_copy(update={"gate": None})
    optimizer = job.spec.optimizer.model_copy(update={"warmup_steps": min(job.spec.optimizer.warmup_steps, steps)})
    changes = {"steps": steps, "register": registering, "optimizer": optimizer}
    return job.model_copy(update={"spec": job.spec.model_copy(update=changes)})


def _on_free_port(endpoint: Endpoint) -> Endpoint:
    """The endpoint on any free port: a demo must not fail because something else has the usual one."""
    listen = endpoint.spec.listen.model_copy(update={"port": 0})
    return endpoint.model_copy(update={"spec": endpoint.spec.model_copy(update={"listen": listen})})
