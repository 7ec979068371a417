"""Each cloud's words, and its misbehaviour, against a real HTTP server that speaks them."""

from __future__ import annotations

import json
import threading

import pytest

from jobs.train.notices.aws import AwsSource
from jobs.train.notices.azure import AzureSource
from jobs.train.notices.gcp import GcpKey, GcpSource
from jobs.train.notices.metadata import MetadataClient
from jobs.train.notices.values import NoticeKind, SourceAbsentError, SourceError
from tests.train.notices.servers import Asked, Said, json_said

NOW_S = 1_505_722_800.0  # 2017-09-18T08:20:00Z
TOKEN = "T0"


def client_of(url: str, read_timeout_s: float = 20.0) -> MetadataClient:
    return MetadataClient(url, connect_timeout_s=20.0, read_timeout_s=read_timeout_s)


class Aws:
    """IMDSv2: a token for a PUT, and the paths that exist."""

    def __init__(self, **found: Said) -> None:
        self.found = found
        self.tokens = ["T0"]

    def __call__(self, asked: Asked) -> Said:
        if asked.path == "/latest/api/token":
            ok = asked.method == "PUT" and asked.headers.get("x-aws-ec2-metadata-token-ttl-seconds") == "21600"
            return Said(body=self.tokens[-1].encode()) if ok else Said(400)
        if asked.headers.get("x-aws-ec2-metadata-token") != self.tokens[-1]:
            return Said(401)
        name = {
            "/latest/meta-data/spot/instance-action": "action",
            "/latest/meta-data/events/recommendations/rebalance": "rebalance",
        }[asked.path]
        return self.found.get(name, Said(404))


def aws(url: str) -> AwsSource:
    return AwsSource(client_of(url), clock=lambda: NOW_S)


def test_aws_without_a_notice_says_nothing(metadata):
    assert aws(metadata(Aws()).url).poll(0) == ()


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
def test_an_aws_interruption_has_its_deadline_in_utc(metadata, action):
    server = metadata(Aws(action=json_said({"action": action, "time": "2017-09-18T08:22:00Z"})))
    (notice,) = aws(server.url).poll(0)
    assert (notice.kind, notice.deadline_s, notice.advisory) == (NoticeKind.PREEMPT, 120.0, False)
    assert notice.id == f"{action}@2017-09-18T08:22:00Z"


def test_an_aws_rebalance_recommendation_is_advice_without_a_deadline(metadata):
    server = metadata(Aws(rebalance=json_said({"noticeTime": "2017-09-18T08:22:00Z"})))
    (notice,) = aws(server.url).poll(0)
    assert (notice.kind, notice.deadline_s, notice.advisory) == (NoticeKind.REBALANCE, None, True)


def test_an_aws_token_is_asked_for_once_and_again_when_refused(metadata):
    behaviour = Aws()
    server = metadata(behaviour)
    source = aws(server.url)
    source.poll(0)
    source.poll(0)
    assert server.paths().count("PUT /latest/api/token") == 1
    behaviour.tokens.append("T1")
    assert source.poll(0) == ()
    assert server.paths().count("PUT /latest/api/token") == 2


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (Said(500, b"oops"), "HTTP 500"),
        (Said(200, b"<html>"), "no JSON"),
        (Said(200, b"[1]"), "no object"),
        (Said(200, b"\xff\xfe"), "no text"),
        (json_said({"action": "explode", "time": "2017-09-18T08:22:00Z"}), "unknown action 'explode'"),
        (json_said({"action": "stop", "time": "soon"}), "'soon' is no time"),
        (json_said({}), "unknown action ''"),
        (Said(200, b"x" * 300_000), "longer than 262144 bytes"),
    ],
)
def test_garbled_aws_answers_are_errors_and_never_notices(metadata, said, problem):
    with pytest.raises(SourceError, match=problem):
        aws(metadata(Aws(action=said)).url).poll(0)


def test_a_redirect_is_not_followed(metadata):
    elsewhere = metadata(lambda asked: Said(body=b"TRUE"))
    server = metadata(Aws(action=Said(302, headers={"Location": elsewhere.url})))
    with pytest.raises(SourceError, match="leads elsewhere"):
        aws(server.url).poll(0)
    assert elsewhere.asked == []


def test_proxies_of_the_environment_are_not_asked(metadata, monkeypatch):
    proxy = metadata(lambda asked: Said(500))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert aws(metadata(Aws()).url).poll(0) == ()
    assert proxy.asked == []


def test_a_service_that_is_not_there_is_absent(unused_port_url):
    with pytest.raises(SourceAbsentError, match="nobody answers"):
        aws(unused_port_url).poll(0)


def test_a_service_that_hangs_up_or_is_slow_is_an_error(metadata):
    with pytest.raises(SourceError, match="RemoteDisconnected"):
        aws(metadata(lambda asked: None).url).poll(0)
    enough = threading.Event()
    slow = metadata(lambda asked: Said(200 if enough.wait(20) else 500))
    with pytest.raises(SourceError, match="timed out"):
        AwsSource(client_of(slow.url, read_timeout_s=0.05)).poll(0)
    enough.set()


class Gcp:
    """Keys with values and ETags; a question that waits is answered when `change` is called."""

    def __init__(self, **values: str) -> None:
        self.values = values
        self.version = 1
        self.changed = threading.Condition()

    def change(self, key: str, value: str) -> None:
        with self.changed:
            self.values[key] = value
            self.version += 1
            self.changed.notify_all()

    def __call__(self, asked: Asked) -> Said:
        if asked.headers.get("metadata-flavor") != "Google":
            return Said(403)
        key, _, query = asked.path.removeprefix("/computeMetadata/v1/instance/").partition("?")
        if query:
            etag = query.rpartition("last_etag=")[2]
            with self.changed:
                self.changed.wait_for(lambda: str(self.version) != etag, timeout=20)
        headers = {"Metadata-Flavor": "Google", "ETag": str(self.version)}
        return Said(body=self.values[key].encode(), headers=headers)


def test_gcp_preemption_leaves_thirty_seconds(metadata):
    server = metadata(Gcp(preempted="TRUE"))
    (notice,) = GcpSource(client_of(server.url), GcpKey.PREEMPTED).poll(0)
    assert (notice.kind, notice.deadline_s) == (NoticeKind.PREEMPT, 30.0)


def test_gcp_waits_for_a_change_and_hears_it_at_once(metadata):
    behaviour = Gcp(preempted="FALSE")
    server = metadata(behaviour)
    source = GcpSource(client_of(server.url), GcpKey.PREEMPTED)
    assert source.poll(10) == ()
    threading.Timer(0.05, behaviour.change, ("preempted", "TRUE")).start()
    (notice,) = source.poll(10)
    assert notice.kind is NoticeKind.PREEMPT
    assert server.paths()[-1].endswith("preempted?wait_for_change=true&timeout_sec=10&last_etag=1")


@pytest.mark.parametrize(
    ("value", "deadline_s", "advisory"),
    [("TERMINATE_ON_HOST_MAINTENANCE", 3600.0, False), ("MIGRATE_ON_HOST_MAINTENANCE", None, True)],
)
def test_gcp_maintenance_ends_a_machine_or_only_moves_it(metadata, value, deadline_s, advisory):
    server = metadata(Gcp(**{"maintenance-event": value}))
    (notice,) = GcpSource(client_of(server.url), GcpKey.MAINTENANCE, maintenance_s=3600.0).poll(0)
    assert (notice.kind, notice.deadline_s, notice.advisory) == (NoticeKind.MAINTENANCE, deadline_s, advisory)


def test_gcp_answers_from_somebody_else_are_refused(metadata):
    server = metadata(lambda asked: Said(body=b"TRUE"))
    with pytest.raises(SourceError, match="does not come from Google"):
        GcpSource(client_of(server.url), GcpKey.PREEMPTED).poll(0)
    with pytest.raises(SourceError, match="preempted is 'maybe'"):
        GcpSource(client_of(metadata(Gcp(preempted="maybe")).url), GcpKey.PREEMPTED).poll(0)


def test_closing_ends_a_question_that_waits(metadata):
    source = GcpSource(client_of(metadata(Gcp(preempted="FALSE")).url), GcpKey.PREEMPTED)
    source.poll(10)
    ended: list[str] = []

    def wait() -> None:
        try:
            source.poll(10)
        except SourceError as error:
            ended.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    threading.Timer(0.05, source.close).start()
    thread.join(5)
    assert ended, "the question still waits"


def event(**changes: object) -> dict[str, object]:
    return {
        "EventId": "E1",
        "EventType": "Preempt",
        "ResourceType": "VirtualMachine",
        "Resources": ["vm1", "vm2"],
        "EventStatus": "Scheduled",
        "NotBefore": "Mon, 18 Sep 2017 08:20:30 GMT",
        **changes,
    }


def azure(metadata, *events: object, vm_name: str = "vm1"):
    def behave(asked: Asked) -> Said:
        if asked.headers.get("metadata") != "true":
            return Said(400)
        if asked.path.startswith("/metadata/instance/compute/name"):
            return Said(body=b"vm1")
        return json_said({"DocumentIncarnation": 1, "Events": list(events)}) if asked.method == "GET" else Said()

    server = metadata(behave)
    return server, AzureSource(client_of(server.url), vm_name, clock=lambda: NOW_S)


@pytest.mark.parametrize(
    ("changes", "kind", "deadline_s"),
    [
        ({}, NoticeKind.PREEMPT, 30.0),
        ({"EventType": "Terminate"}, NoticeKind.TERMINATE, 30.0),
        ({"EventType": "Redeploy"}, NoticeKind.MAINTENANCE, 30.0),
        ({"EventStatus": "Started", "NotBefore": ""}, NoticeKind.PREEMPT, 0.0),
        ({"NotBefore": "Mon, 18 Sep 2017 08:00:00 GMT"}, NoticeKind.PREEMPT, 0.0),
    ],
)
def test_azure_events_have_their_deadlines(metadata, changes, kind, deadline_s):
    _, source = azure(metadata, event(**changes))
    (notice,) = source.poll(0)
    assert (notice.kind, notice.deadline_s, notice.id) == (kind, deadline_s, "E1")


def test_azure_events_of_other_machines_are_not_ours(metadata):
    _, source = azure(metadata, event(Resources=["vm2"]), event(EventType="Party", EventId="E2"))
    assert source.poll(0) == ()


def test_azure_is_asked_for_the_name_of_this_machine_once(metadata):
    server, source = azure(metadata, event(), vm_name="")
    assert len(source.poll(0)) == 1
    source.poll(0)
    assert sum("compute/name" in path for path in server.paths()) == 1


def test_acknowledging_lets_azure_start_the_event(metadata):
    server, source = azure(metadata, event())
    (notice,) = source.poll(0)
    source.acknowledge(notice)
    assert server.asked[-1].method == "POST"
    assert json.loads(server.asked[-1].body) == {"StartRequests": [{"EventId": "E1"}]}


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"Events": [{}]}', b'{"Events": 7}', b"nonsense"])
def test_garbled_azure_events_are_errors(metadata, body):
    server = metadata(lambda asked: Said(body=body))
    with pytest.raises(SourceError, match="make no sense"):
        AzureSource(client_of(server.url), "vm1").poll(0)


def test_only_plain_http_addresses_are_taken():
    for url in ("https://169.254.169.254", "file:///etc", "http://", "http://u@h", "http://h/?q=1"):
        with pytest.raises(ValueError, match="write http://HOST"):
            client_of(url)
