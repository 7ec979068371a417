"""The Kubernetes API over HTTPS: get, list, watch, patch, with the bearer token of a file.

The token is read anew for every request (those of service accounts are replaced every hour), goes to the server named
and nowhere else, and stands in no message. Refuses to know what the objects mean.
Source: Kubernetes documentation, "Kubernetes API Concepts".
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from orchestrator.ports import UnreachableError

Object = dict[str, Any]
ANSWER_S, CONNECT_S = 10.0, 3.0
PAGE = 500
WATCH_S = 60
"""A watch is ended by the server after so long and taken up again: silence is noticed by then."""
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class GoneError(Exception):
    """The server has forgotten the version that a watch or a page was to go on from: list again."""


class ConflictError(Exception):
    """The object has changed since it was read: read it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeAddress:
    """An API server, the file with its token, and who signed its certificate (None: the system's authorities)."""

    url: str
    token_file: Path
    ca_file: Path | None = None


def own_cluster(environ: Mapping[str, str], account: Path = ACCOUNT) -> KubeAddress:
    """The API server of the cluster in which this process runs, as Kubernetes tells every pod.

    Raises: UnreachableError outside of a cluster.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT_HTTPS", "443")
    if not host:
        raise UnreachableError(
            "this process runs in no Kubernetes pod (KUBERNETES_SERVICE_HOST is not set), and the pool names no api"
        )
    at = f"[{host}]" if ":" in host else host
    return KubeAddress(url=f"https://{at}:{port}", token_file=account / "token", ca_file=account / "ca.crt")


class KubeApi:
    """One API server. Raises UnreachableError wherever there is no answer to work with, with the server's own words."""

    def __init__(self, find: Callable[[], KubeAddress], *, watch_s: int = WATCH_S) -> None:
        self._find = find
        self._watch_s = watch_s
        self._address: KubeAddress | None = None
        self._client: httpx.Client | None = None

    @property
    def address(self) -> KubeAddress:
        """Where it is. Raises: UnreachableError while nobody knows."""
        if self._address is None:
            self._address = self._find()
        return self._address

    def get(self, path: str) -> Object:
        """One object."""
        return self._ask("GET", path)

    def list(self, path: str, selector: Mapping[str, str]) -> tuple[list[Object], str]:
        """All objects of a selector, page by page, and the version to watch from. Raises: GoneError."""
        items: list[Object] = []
        page: dict[str, str] = {}
        while True:
            found = self._ask("GET", path, params={**selector, "limit": str(PAGE), **page})
            items += found.get("items") or []
            about = found.get("metadata", {})
            if not about.get("continue"):
                return items, str(about.get("resourceVersion", ""))
            page = {"continue": about["continue"]}

    def watch(self, path: str, selector: Mapping[str, str], version: str) -> Iterator[tuple[str, Object]]:
        """(ADDED | MODIFIED | DELETED | BOOKMARK, object) from a version on, until the server ends it.

        Raises: GoneError.
        """
        params = {
            **selector,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._watch_s),
        }
        patience = httpx.Timeout(ANSWER_S, connect=CONNECT_S, read=self._watch_s + 15.0)
        try:
            with self._http().stream("GET", path, params=params, headers=self._headers(), timeout=patience) as answer:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    self._refuse(answer)
                for line in answer.iter_lines():
                    if line:
                        yield self._event(json.loads(line))
        except (httpx.HTTPError, ValueError) as error:
            raise UnreachableError(f"{self.address.url}: the watch of {path} broke off: {error}") from error

    def patch(self, path: str, operations: Sequence[Object]) -> Object:
        """Apply a JSON patch (RFC 6902), the one kind by which an entry of a custom resource's list can be changed.

        Raises: ConflictError.
        """
        return self._ask(
            "PATCH", path, content=json.dumps(operations), headers={"content-type": "application/json-patch+json"}
        )

    def close(self) -> None:
        """Let go of its connections; another request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _ask(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> Object:
        try:
            answer = self._http().request(method, path, headers={**self._headers(), **(headers or {})}, **more)
        except httpx.HTTPError as error:
            raise UnreachableError(f"{self.address.url} does not answer: {error}") from error
        if not answer.is_success:
            self._refuse(answer)
        try:
            found = answer.json()
        except ValueError as error:
            raise UnreachableError(f"{self.address.url} answers {path} with something that is no JSON") from error
        assert isinstance(found, dict), "the API answers with objects"
        return found

    def _http(self) -> httpx.Client:
        if self._client is None:
            # Neither proxies nor .netrc of the environment: a token goes where the operator said, and nowhere else.
            self._client = httpx.Client(
                base_url=self.address.url,
                verify=self._trust(),
                timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
                trust_env=False,
                follow_redirects=False,
            )
        return self._client

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.address.ca_file)
        except OSError as error:
            raise UnreachableError(f"the authority of {self.address.url} cannot be read: {error}") from error

    def _headers(self) -> dict[str, str]:
        try:
            token = self.address.token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UnreachableError(f"the token for {self.address.url} cannot be read: {error}") from error
        return {"authorization": f"Bearer {token}", "accept": "application/json"}

    def _event(self, event: Object) -> tuple[str, Object]:
        kind, found = str(event.get("type")), event.get("object") or {}
        if kind != "ERROR":
            return kind, found
        if found.get("code") == httpx.codes.GONE:
            raise GoneError(str(found.get("message", "")))
        raise UnreachableError(f"{self.address.url} ends a watch: {found.get('message', 'no reason given')}")

    def _refuse(self, answer: httpx.Response) -> None:
        what = f"{self.address.url}{answer.request.url.path} answers {answer.status_code}: {_message(answer)}"
        match answer.status_code:
            case httpx.codes.GONE:
                raise GoneError(what)
            case httpx.codes.CONFLICT:
                raise ConflictError(what)
            case httpx.codes.UNAUTHORIZED:
                raise UnreachableError(f"{what}. The token in {self.address.token_file} is not taken; renew it")
            case httpx.codes.FORBIDDEN:
                raise UnreachableError(f"{what}. Its role needs the verbs that docs/operations.md lists")
            case _:
                raise UnreachableError(what)


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase
