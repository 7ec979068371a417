"""A stand-in for a Kubernetes API server with KubeRay's operator behind it, over real HTTP(S) on loopback.

It keeps resource versions and forgets old ones (410), checks bearer tokens and verbs, takes JSON patches with
optimistic locking (409), refuses strategic ones for custom resources (415) and what breaks the parts of RayCluster's
schema that concern worker groups (422; from KubeRay's `ray.io_rayclusters.yaml`), and sends bookmarks. The operator
does what `raycluster_controller.go` does with replicas and workersToDelete, one reconciliation at a call.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema

INT32 = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
GROUP_SCHEMA = {
    "type": "object",
    "required": ["groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"],
    "properties": {
        "groupName": {"type": "string"},
        "replicas": INT32,
        "minReplicas": INT32,
        "maxReplicas": INT32,
        "numOfHosts": INT32,
        "suspend": {"type": "boolean"},
        "scaleStrategy": {
            "type": "object",
            "properties": {"workersToDelete": {"type": "array", "items": {"type": "string"}}},
        },
    },
}
SCHEMA = {
    "type": "object",
    "required": ["headGroupSpec"],
    "properties": {
        "enableInTreeAutoscaling": {"type": "boolean"},
        "suspend": {"type": "boolean"},
        "managedBy": {"type": "string"},
        "workerGroupSpecs": {"type": "array", "items": GROUP_SCHEMA},
    },
}
Thing = dict[str, Any]


class RefusedError(Exception):
    """An answer that is no success: `args` are its code and message."""


class Kube:
    """What the API server keeps. `verbs`: what the token may do, as (verb, kind)."""

    def __init__(self, token: str, namespace: str = "default") -> None:
        self.token, self.namespace = token, namespace
        self.verbs = {("get", "rayclusters"), ("patch", "rayclusters")}
        self.verbs |= {(verb, kind) for verb in ("list", "watch") for kind in ("pods", "rayclusters")}
        self.things: dict[str, dict[str, Thing]] = {"pods": {}, "rayclusters": {}}
        self.version, self.oldest = 100, 0
        self.events: list[tuple[int, str, str, Thing]] = []
        self.patches: list[Any] = []
        self.asked: list[str] = []
        self.changed = threading.Condition()
        self.before_patch: Any = None
        self._made = 0

    # --- Objects -----------------------------------------------------------------------------------------------------

    def put(self, kind: str, thing: Thing) -> Thing:
        with self.changed:
            name = thing["metadata"]["name"]
            word = "MODIFIED" if name in self.things[kind] else "ADDED"
            return self._write(kind, word, thing)

    def delete(self, kind: str, name: str) -> None:
        with self.changed:
            self._write(kind, "DELETED", self.things[kind][name])
            del self.things[kind][name]

    def compact(self) -> None:
        """What is older than now is forgotten, and whoever watches is cut off."""
        with self.changed:
            self.oldest = self.version
            self.events.clear()
            self.changed.notify_all()

    def _write(self, kind: str, word: str, thing: Thing) -> Thing:
        self.version += 1
        thing = copy.deepcopy(thing)
        thing["metadata"] |= {"resourceVersion": str(self.version), "namespace": self.namespace}
        self.things[kind][thing["metadata"]["name"]] = thing
        self.events.append((self.version, kind, word, thing))
        self.changed.notify_all()
        return thing

    def select(self, kind: str, query: dict[str, str]) -> dict[str, Thing]:
        labels = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
        field = query.get("fieldSelector", "").removeprefix("metadata.name=")
        return {
            name: one
            for name, one in self.things[kind].items()
            if labels.items() <= one["metadata"].get("labels", {}).items() and field in ("", name)
        }

    def patch(self, name: str, operations: list[Thing]) -> Thing:
        if self.before_patch is not None:
            self.before_patch()
        with self.changed:
            if name not in self.things["rayclusters"]:
                raise RefusedError(404, f'rayclusters.ray.io "{name}" not found')
            found = copy.deepcopy(self.things["rayclusters"][name])
            kept = found["metadata"]["resourceVersion"]
            for one in operations:
                apply(found, one)
            if found["metadata"]["resourceVersion"] != kept:
                raise RefusedError(409, "the object has been modified; please apply your changes to the latest version")
            try:
                jsonschema.validate(found["spec"], SCHEMA)
            except jsonschema.ValidationError as error:
                raise RefusedError(422, f"RayCluster is invalid: {error.message}") from None
            self.patches.append(operations)
            return self._write("rayclusters", "MODIFIED", found)

    # --- KubeRay's operator, the scheduler and the kubelet -----------------------------------------------------------

    def reconcile(self, cluster: str) -> None:
        """One reconciliation: what is named goes, what is missing is made, what is too much goes, too."""
        found = self.things["rayclusters"][cluster]
        for group in found["spec"]["workerGroupSpecs"]:
            wanted = min(max(group.get("replicas", 0), group["minReplicas"]), group["maxReplicas"])
            pods = sorted(self.select("pods", {"labelSelector": f"ray.io/group={group['groupName']}"}))
            for name in group.get("scaleStrategy", {}).get("workersToDelete", []):
                if name in pods:
                    self.end(name)
                    pods.remove(name)
            for _ in range(wanted - len(pods)):
                self.make(cluster, group["groupName"])
            if not found["spec"].get("enableInTreeAutoscaling"):
                for name in pods[: max(0, len(pods) - wanted)]:
                    self.end(name)

    def make(self, cluster: str, group: str) -> str:
        self._made += 1
        labels = {"ray.io/cluster": cluster, "ray.io/group": group, "ray.io/node-type": "worker"}
        unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/9 nodes fit"}
        name = f"{cluster}-{group}-worker-{self._made:03d}"
        pod = {"metadata": {"name": name, "labels": labels}, "status": {"phase": "Pending", "conditions": [unplaced]}}
        self.put("pods", pod)
        return name

    def run(self, name: str, ip: str = "") -> None:
        placed = {"type": "PodScheduled", "status": "True"}
        self.put(
            "pods", self.things["pods"][name] | {"status": {"phase": "Running", "podIP": ip, "conditions": [placed]}}
        )

    def end(self, name: str, at: str = "2026-11-28T12:01:00Z") -> None:
        """Asked to end: killed when its grace period is over, at `at`."""
        pod = copy.deepcopy(self.things["pods"][name])
        pod["metadata"] |= {"deletionTimestamp": at, "deletionGracePeriodSeconds": 60}
        self.put("pods", pod)


def apply(found: Any, operation: Thing) -> None:
    """One operation of RFC 6902, as far as it is used. Raises: RefusedError (422)."""
    *way, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    for part in way:
        try:
            found = found[int(part)] if isinstance(found, list) else found[part]
        except (KeyError, IndexError, ValueError):
            raise RefusedError(422, "the server rejected our request due to an error in our request") from None
    match operation["op"]:
        case "test" if found.get(last) != operation["value"]:
            raise RefusedError(422, "the server rejected our request due to an error in our request")
        case "replace" if last not in found:
            raise RefusedError(422, "the server rejected our request due to an error in our request")
        case "add" | "replace":
            found[last] = operation["value"]


class _Handler(BaseHTTPRequestHandler):
    kube: Kube
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_PATCH(self) -> None:
        self._answer(self._patch)

    def log_message(self, *args: object) -> None:
        """Quiet."""

    def _answer(self, do: Any) -> None:
        self.kube.asked.append(f"{self.command} {self.path}")
        try:
            if self.headers.get("authorization") != f"Bearer {self.kube.token}":
                raise RefusedError(401, "Unauthorized")
            do()
        except RefusedError as error:
            self._send(error.args[0], {"kind": "Status", "code": error.args[0], "message": error.args[1]})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _send(self, code: int, thing: Thing) -> None:
        body = json.dumps(thing).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _where(self) -> tuple[str, str, dict[str, str]]:
        url = urlsplit(self.path)
        roots = {"pods": "/api/v1", "rayclusters": "/apis/ray.io/v1"}
        for kind, root in roots.items():
            base = f"{root}/namespaces/{self.kube.namespace}/{kind}"
            if url.path == base or url.path.startswith(base + "/"):
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                return kind, url.path[len(base) + 1 :], query
        raise RefusedError(404, "the server could not find the requested resource")

    def _may(self, verb: str, kind: str) -> None:
        if (verb, kind) not in self.kube.verbs:
            raise RefusedError(403, f'{kind} is forbidden: User "tide" cannot {verb} resource "{kind}"')

    def _get(self) -> None:
        kind, name, query = self._where()
        self._may("get" if name else "watch" if query.get("watch") else "list", kind)
        if name:
            if name not in self.kube.things[kind]:
                raise RefusedError(404, f'{kind} "{name}" not found')
            self._send(200, self.kube.things[kind][name])
        elif query.get("watch"):
            self._watch(kind, query)
        else:
            self._list(kind, query)

    def _list(self, kind: str, query: dict[str, str]) -> None:
        """Two objects a page, whatever limit allows, so that pages are followed."""
        with self.kube.changed:
            found = [one for _, one in sorted(self.kube.select(kind, query).items())]
            version, first = str(self.kube.version), int(query.get("continue", 0))
        about = {"resourceVersion": version} | ({"continue": str(first + 2)} if len(found) > first + 2 else {})
        self._send(200, {"kind": "List", "metadata": about, "items": found[first : first + 2]})

    def _watch(self, kind: str, query: dict[str, str]) -> None:
        seen = int(query["resourceVersion"])
        if seen < self.kube.oldest:
            raise RefusedError(410, "too old resource version")
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in self._events(kind, query, seen, float(query["timeoutSeconds"])):
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _events(self, kind: str, query: dict[str, str], seen: int, seconds: float) -> Iterator[Thing]:
        kube = self.kube
        while True:
            with kube.changed:
                new = [one for one in kube.events if one[0] > seen]
                if not new and seen >= kube.oldest and not kube.changed.wait(seconds):
                    bookmark = {"metadata": {"resourceVersion": str(kube.version)}}
                    new = [(kube.version, kind, "BOOKMARK", bookmark)]
                if seen < kube.oldest:
                    yield {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}
                    return
            for version, of, word, thing in new:
                seen = version
                if of == kind and (word == "BOOKMARK" or self._is_selected(thing, query)):
                    yield {"type": word, "object": thing}
            if new and new[-1][2] == "BOOKMARK":
                return

    def _is_selected(self, thing: Thing, query: dict[str, str]) -> bool:
        labels = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
        field = query.get("fieldSelector", "").removeprefix("metadata.name=")
        return labels.items() <= thing["metadata"].get("labels", {}).items() and field in (
            "",
            thing["metadata"]["name"],
        )

    def _patch(self) -> None:
        kind, name, _ = self._where()
        self._may("patch", kind)
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["content-type"] != "application/json-patch+json":
            raise RefusedError(415, "the body of the request was in an unknown format")
        self._send(200, self.kube.patch(name, body))


class StandIn:
    """The server, with TLS if it is given a certificate and its key."""

    def __init__(self, kube: Kube, certificate: tuple[Path, Path] | None = None) -> None:
        self.kube = kube
        handler = type("Handler", (_Handler,), {"kube": kube})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def ray_cluster(name: str = "harbour", *groups: Thing, **spec: Any) -> Thing:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name},
        "spec": {"headGroupSpec": {"rayStartParams": {}, "template": {}}, "workerGroupSpecs": list(groups), **spec},
    }


def worker_group(name: str = "h100", replicas: int = 0, least: int = 0, most: int = 10, **more: Any) -> Thing:
    named = {"groupName": name, "replicas": replicas, "minReplicas": least, "maxReplicas": most}
    return {**named, "rayStartParams": {}, "template": {}, **more}


def seconds(instant: str) -> float:
    return dt.datetime.fromisoformat(instant).timestamp()
