"""What is asked of the API server: lists, watches that end, patches, tokens and certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.adapters.capacity.kuberay.api import (
    ConflictError,
    GoneError,
    own_cluster,
)
from orchestrator.adapters.capacity.kuberay.watch import Watched
from orchestrator.ports import UnreachableError
from tests.contract.kube_stand_in import Kube, StandIn, ray_cluster
from tests.contract.kuberay.world import CLUSTER_PATH, PODS, TOKEN, MakeApi
from tests.serving.certificates import write_certificate


def test_after_history_is_lost_everything_is_listed_again(api_of: MakeApi, stand_in: StandIn) -> None:
    kube, watched = stand_in.kube, Watched(api_of(stand_in), PODS, {})
    first = kube.make("harbour", "h100")
    watched.round()
    kube.compact()
    kube.delete("pods", first)
    second = kube.make("harbour", "h100")
    kube.compact()
    watched.round()  # 410: nothing can be gone on from
    watched.round()
    assert set(watched._objects) == {second}
    assert len([line for line in kube.asked if "watch" not in line]) == 2


def test_a_quiet_watch_goes_on_from_its_bookmark(api_of: MakeApi, stand_in: StandIn) -> None:
    kube, watched = stand_in.kube, Watched(api_of(stand_in), PODS, {"labelSelector": "ray.io/cluster=x"})
    watched.round()
    kube.make("harbour", "h100")  # nothing for this selector, yet history moves on
    watched.round()
    kube.compact()
    watched.round()
    assert len([line for line in kube.asked if "watch" not in line]) == 1


def test_long_lists_are_read_page_by_page(api_of: MakeApi, stand_in: StandIn) -> None:
    names = {stand_in.kube.make("harbour", "h100") for _ in range(5)}
    items, version = api_of(stand_in).list(PODS, {})
    assert ({one["metadata"]["name"] for one in items}, version) == (names, str(stand_in.kube.version))


def test_a_version_that_is_forgotten_and_one_that_is_stale_are_told_apart(api_of: MakeApi, stand_in: StandIn) -> None:
    api = api_of(stand_in)
    stand_in.kube.compact()
    with pytest.raises(GoneError):
        list(api.watch(PODS, {}, "1"))
    with pytest.raises(ConflictError, match="409: the object has been modified"):
        api.patch(CLUSTER_PATH, [{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}])


def test_what_the_schema_does_not_allow_is_told_in_the_servers_words(api_of: MakeApi, stand_in: StandIn) -> None:
    operation = {"op": "add", "path": "/spec/workerGroupSpecs/1/replicas", "value": "three"}
    with pytest.raises(UnreachableError, match="422: RayCluster is invalid: 'three' is not of type 'integer'"):
        api_of(stand_in).patch(CLUSTER_PATH, [operation])


def test_a_token_is_read_anew_and_stands_in_no_message(tmp_path: Path, api_of: MakeApi, stand_in: StandIn) -> None:
    api = api_of(stand_in)
    (tmp_path / "token").write_text("a-stolen-one")
    with pytest.raises(UnreachableError, match=r"401: Unauthorized\. The token in .*token is not taken") as refused:
        api.get(CLUSTER_PATH)
    assert "stolen" not in str(refused.value)
    (tmp_path / "token").write_text(TOKEN)
    assert api.get(CLUSTER_PATH)["kind"] == "RayCluster"
    stand_in.kube.verbs.remove(("get", "rayclusters"))
    with pytest.raises(UnreachableError, match=r"403: .*cannot get.* Its role needs") as refused:
        api.get(CLUSTER_PATH)
    assert TOKEN not in str(refused.value)
    (tmp_path / "token").unlink()
    with pytest.raises(UnreachableError, match="token"):
        api.get(CLUSTER_PATH)


def test_a_server_whose_certificate_nobody_vouches_for_gets_no_token(tmp_path: Path, api_of: MakeApi) -> None:
    certificate = write_certificate(tmp_path)
    kube = Kube(TOKEN)
    kube.put("rayclusters", ray_cluster("harbour"))
    secure = StandIn(kube, certificate)
    with pytest.raises(UnreachableError, match="certificate verify failed"):
        api_of(secure).get(CLUSTER_PATH)
    assert kube.asked == []
    assert api_of(secure, ca_file=certificate[0]).get(CLUSTER_PATH)["kind"] == "RayCluster"
    secure.close()


def test_a_pod_finds_its_own_api_server_and_nobody_else_does(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT_HTTPS": "6443"}
    found = own_cluster(environ, tmp_path)
    assert (found.url, found.token_file, found.ca_file) == (
        "https://[fd00::1]:6443",
        tmp_path / "token",
        tmp_path / "ca.crt",
    )
    with pytest.raises(UnreachableError, match="runs in no Kubernetes pod"):
        own_cluster({})
