"""Deploying, as far as it goes without a cluster: configuration, and what is refused before anything starts."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import openai
import pytest
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
)

from orchestrator.adapters.endpoints.life import Life
from orchestrator.adapters.ray_serve import check_supported
from orchestrator.adapters.ray_serve.deploy import _tls_options, free_port
from orchestrator.adapters.ray_serve.held import HeldEndpoint, _read
from orchestrator.adapters.ray_serve.seen import why_failed
from orchestrator.cli.main import main
from orchestrator.cli.serve import _refresh
from orchestrator.registry import Provenance, Registry
from orchestrator.spec import Endpoint, UserError, load_one, load_text
from orchestrator.spec.errors import ExitCode
from serving.app import ReplicaSpec, build_replica, running_app
from serving.batch.database import sqlite_url
from serving.batch.store import BatchStore
from serving.config import policy_config, tier_limits
from serving.http.service import ServedModel
from serving.policy import Tier
from tests.registry.models import PROVENANCE, model_folder
from tests.serving import vllm_stub
from tests.serving.batch.worlds import line
from tests.serving.certificates import write_certificate
from tests.serving.http.server import openai_client, serve_app
from tests.serving.http.test_lifecycle import until
from tests.serving.worlds import tiny_model

DEMO = Path(__file__).parents[2] / "cluster-configs/endpoints/demo.yaml"


HEAD = "apiVersion: tideline/v1\nkind: Endpoint\nmetadata: {name: e}\n"


def endpoint(spec: str) -> Endpoint:
    (loaded,) = load_text(f"{HEAD}spec: {{model: m@latest, {spec}}}")
    assert isinstance(loaded, Endpoint)
    return loaded


def test_the_scheduler_gets_what_the_file_says() -> None:
    config = policy_config(load_one(DEMO, Endpoint))
    keystroke = config.targets[Tier.KEYSTROKE]
    assert keystroke.deadline_s(10.0, 20) == pytest.approx(10.0 + 0.3 + 20 * 0.01)
    assert (keystroke.step_cap_s, config.batch_share, config.supersede) == (0.02, 0.05, True)
    assert tier_limits(load_one(DEMO, Endpoint))[Tier.KEYSTROKE].max_tokens == 64


def test_a_tier_that_is_left_out_is_not_offered() -> None:
    only = endpoint("tiers: {interactive: {slo: {latency: 1s}}}")
    assert set(policy_config(only).targets) == set(tier_limits(only)) == {Tier.INTERACTIVE}
    assert policy_config(only).batch_share == 0


def test_an_alias_that_was_forgotten_leaves_what_answers(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    for seed in range(2):
        registry.register("m", model_folder(tmp_path / str(seed), seed), PROVENANCE)
    registry.set_alias("m@2", "champion")
    document = {
        "apiVersion": "tideline/v1", "kind": "Endpoint", "metadata": {"name": "e"},
        "spec": {"model": "m@champion", "engine": {"name": "echo"}, "tiers": {"batch": {}}},
    }  # fmt: skip
    held = HeldEndpoint(registry, tmp_path)
    held._life, held._endpoint = Life(document=document, built="m@1", ref="m@1"), _read(document)
    moved = held.overtaken()
    assert moved is not None
    assert moved.ref == "m@2"
    registry.remove_alias("m", "champion")
    assert held.overtaken() is None


def test_trouble_with_the_registry_is_said_once_while_it_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    class Stuck:
        said = "m has no alias 'champion'"

        def refresh(self) -> bool:
            raise UserError(self.said)

    deployed, trouble = Stuck(), ""
    for said in ("m has no alias 'champion'", "m has no alias 'champion'", "the disk is away"):
        deployed.said = said
        trouble = _refresh(deployed, trouble)  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("registry: ")[2] for line in lines] == ["m has no alias 'champion'", "the disk is away"]


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("replicas: {min: 0}, tiers: {batch: {}}", "replicas.min: 0"),
        ("engine: {name: vllm, precision: int8}, tiers: {batch: {}}", "engine.precision: int8 with engine vllm"),
        (
            "engine: {name: echo}, canary: {model: m@2, weight: 0.1}, tiers: {batch: {}}",
            "canary with engine echo or vllm",
        ),
    ],
)
def test_a_key_without_effect_is_an_error_that_names_it(spec: str, named: str) -> None:
    with pytest.raises(UserError) as refused:
        check_supported(endpoint(spec))
    assert refused.value.code is ExitCode.NEVER
    assert named in refused.value.problem


def test_the_shipped_endpoint_is_supported() -> None:
    check_supported(load_one(DEMO, Endpoint))


def test_the_full_example_names_what_is_carried_out() -> None:
    with pytest.raises(UserError) as refused:
        check_supported(load_one(DEMO.parents[1] / "examples/endpoint.yaml", Endpoint))
    assert "keys" not in refused.value.problem
    assert "tls" not in refused.value.problem


def test_certificates_are_checked_before_anything_starts(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    secure = endpoint("listen: {tls: {cert: cert.pem, key: key.pem}}, tiers: {batch: {}}")
    assert _tls_options(secure, tmp_path) == {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}
    key.write_text("nonsense")
    with pytest.raises(UserError, match="are no certificate and its key"):
        _tls_options(secure, tmp_path)
    cert.unlink()
    with pytest.raises(UserError, match="No such file"):
        _tls_options(secure, tmp_path)
    assert _tls_options(endpoint("tiers: {batch: {}}"), tmp_path) == {}


def test_a_keys_file_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    with_keys = endpoint("engine: {name: echo}, keys: keys.json, tiers: {batch: {}}")
    spec = ReplicaSpec(endpoint=with_keys, model=ServedModel(id="m", ref="m@1", created_s=0), folder=Path(),
                       base=tmp_path)  # fmt: skip
    with pytest.raises(UserError, match="tide keys create"):
        build_replica(spec)


def test_a_missing_keys_file_is_said_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("TIDE_HOME", str(tmp_path / "home"))
    Registry(tmp_path / "home" / "models").register("m", model_folder(tmp_path / "built", 0), PROVENANCE)
    file = tmp_path / "endpoint.yaml"
    file.write_text(f"{HEAD}spec: {{model: m@1, engine: {{name: echo}}, keys: keys.json, tiers: {{batch: {{}}}}}}\n")
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(file)])
    assert ended.value.code == ExitCode.UNKNOWN
    said = capsys.readouterr().err
    assert f"'tide keys create {tmp_path / 'keys.json'} --tenant NAME' makes one" in said
    assert "starting Ray" not in said


def test_an_endpoint_that_does_not_start_says_what_its_replica_said() -> None:
    def failed(message: str) -> ApplicationStatusOverview:
        deployment = DeploymentStatusOverview(
            status=DeploymentStatus.DEPLOY_FAILED, status_trigger=DeploymentStatusTrigger.UNSPECIFIED,
            replica_states={}, message=message,
        )  # fmt: skip
        return ApplicationStatusOverview(
            status=ApplicationStatus.DEPLOY_FAILED, message="Failed to update the deployments ['endpoint'].",
            last_deployed_time_s=0.0, deployments={"endpoint": deployment},
        )  # fmt: skip

    ours = "orchestrator.spec.errors.UserError: m@1: there is no config.json. Register it anew."
    trouble = f"The deployment failed to start 3 times in a row. Error:\nTraceback ...\n  raise UserError\n{ours}\n"
    assert why_failed(failed(trouble)) == "m@1: there is no config.json. Register it anew."
    assert why_failed(failed("")) == "Failed to update the deployments ['endpoint']."


def test_a_port_that_is_taken_is_a_conflict() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError) as taken:
            free_port("127.0.0.1", other.getsockname()[1])
    assert taken.value.code is ExitCode.CONFLICT


def test_a_port_of_its_own_choice_is_none_that_an_outgoing_connection_may_take() -> None:
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port("127.0.0.1", 0) < first_given


def test_a_registered_version_answers_under_plain_uvicorn(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    version = registry.register("m", tiny_model(tmp_path / "built"), Provenance())
    model = ServedModel(id="m", ref=version.ref, created_s=0)
    spec = ReplicaSpec(endpoint=endpoint("tiers: {interactive: {slo: {latency: 60s}}}"), model=model,
                       folder=registry.folder(version))  # fmt: skip
    with running_app(spec) as app, serve_app(app) as url, openai_client(url) as client:
        done = client.completions.create(model="m", prompt="def f(", max_tokens=5)
    assert done.usage is not None
    assert done.usage.completion_tokens == 5


def test_serving_an_unknown_model_exits_4_before_a_cluster_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDE_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as done:
        main(["serve", str(DEMO)])
    assert done.value.code == ExitCode.UNKNOWN
    out, err = capsys.readouterr()
    assert out == ""
    assert "there is no model 'demo-gpt'" in err


def test_a_drain_returns_rows_of_batches_and_goes_on_answering(tmp_path: Path) -> None:
    spec = ReplicaSpec(endpoint=endpoint("engine: {name: echo, max_context: 200000}, "
                                         "tiers: {interactive: {slo: {latency: 60s}}, batch: {max_tokens: 190000}}"),
                       model=ServedModel(id="m", ref="m@1", created_s=0), folder=Path(), state=tmp_path)  # fmt: skip
    process = build_replica(spec)
    try:
        with serve_app(process.app) as url, openai_client(url) as client:
            row = line("r", body={"model": "m", "prompt": "x", "max_tokens": 190_000})
            file = client.files.create(file=("in.jsonl", row), purpose="batch")
            client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
            until(lambda: process.replica.stats().rows[Tier.BATCH] == (1, 0))
            process.drain()
            process.drain()  # a notice and the end: the second finds nothing to do
            until(lambda: process.replica.stats().rows[Tier.BATCH] == (0, 0))
            done = client.completions.create(model="m", prompt="abc", max_tokens=3)
            assert done.choices[0].text == "abc"
            with pytest.raises(openai.InternalServerError, match="about to leave"):
                client.completions.create(model="m", prompt="a", extra_body={"service_tier": "flex"})
    finally:
        process.close()
    store = BatchStore(sqlite_url(tmp_path / "batches" / "e.sqlite3"))
    assert [(each.index, each.batch_id != "") for each in store.leases.lease(9)] == [(0, True)]
    store.close()


def test_a_vllm_endpoint_keeps_batches_and_refuses_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the stub, so this shows our side alone."""
    monkeypatch.setitem(sys.modules, "vllm", vllm_stub)
    spec = ReplicaSpec(endpoint=endpoint("engine: {name: vllm}, tiers: {batch: {}}"),
                       model=ServedModel(id="m", ref="m@1", created_s=0), folder=tmp_path, state=tmp_path)  # fmt: skip
    with running_app(spec) as app, serve_app(app) as url, openai_client(url) as client:
        row = line("r", body={"model": "m", "prompt": "abc", "max_tokens": 5})
        file = client.files.create(file=("in.jsonl", row), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
        until(lambda: client.batches.retrieve(batch.id).status == "completed")
        with pytest.raises(openai.BadRequestError, match="no embeddings"):
            client.embeddings.create(model="m", input="a")


def test_the_openapi_document_lists_every_route(tmp_path: Path) -> None:
    """The OpenAPI document is part of the contract; a route that appears or vanishes is seen here."""
    spec = ReplicaSpec(endpoint=endpoint("engine: {name: echo}, tiers: {batch: {}}"),
                       model=ServedModel(id="m", ref="m@1", created_s=0), folder=Path(), state=tmp_path)  # fmt: skip
    with running_app(spec) as app:
        assert sorted(app.openapi()["paths"]) == [
            "/healthz",
            "/metrics",
            "/readyz",
            "/v1/batches",
            "/v1/batches/{batch_id}",
            "/v1/batches/{batch_id}/cancel",
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/files",
            "/v1/files/{file_id}",
            "/v1/files/{file_id}/content",
            "/v1/models",
            "/v1/models/{name}",
        ]
