"""`tide window`: what a Cluster's windows are, when they open, and whether a session fits."""

from __future__ import annotations

import json

import pytest
import yaml

from orchestrator.cli.main import main

CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: c}
spec:
  pools:
    - {name: p, device: H100, market: on_demand, price: "1", capacity: {source: ray}}
  windows:
    - {name: offpeak, start: "22:00", end: "06:00", timezone: Europe/Berlin, days: [mon, tue, wed, thu, fri], grace: 2m}
    - {name: weekend, start: "00:00", end: "00:00", timezone: Europe/Berlin, days: [sat, sun]}
    - {name: gap, start: "02:15", end: "02:45", timezone: Europe/Berlin, days: [sun]}
"""
NIGHT = "2026-03-26T23:00:00+01:00"  # a Thursday, three days before the clock goes forward


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER)
    return str(path)


def _run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["window", *arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def test_list_says_what_is_open_and_until_when(capsys, cluster):
    code, out, _ = _run(capsys, "list", cluster, "--at", NIGHT, "-o", "json")
    listed = json.loads(out)
    assert (code, listed["kind"]) == (0, "WindowList")
    offpeak, weekend, _ = listed["items"]
    assert (offpeak["open"], offpeak["closes_at"], offpeak["left_s"]) == (True, "2026-03-27T06:00:00+01:00", 7 * 3600)
    assert (weekend["open"], weekend["next_opens_at"]) == (False, "2026-03-28T00:00:00+01:00")
    assert offpeak["days"] == ["mon", "tue", "wed", "thu", "fri"]


def test_a_weekend_of_whole_days_is_one_stretch(capsys, cluster):
    _, out, _ = _run(capsys, "test", cluster, "weekend", "--at", "2026-03-28T00:00:00+01:00", "-o", "json")
    assert json.loads(out)["left_s"] == 47 * 3600  # the clock goes forward on Sunday


def test_list_is_readable_and_yaml_is_the_same(capsys, cluster):
    _, table, _ = _run(capsys, "list", cluster, "--at", NIGHT)
    assert "offpeak" in table
    assert "22:00-06:00" in table
    assert table.count("2026-0") == 3  # until when, for each
    _, text, _ = _run(capsys, "list", cluster, "--at", NIGHT, "-o", "yaml")
    assert [item["name"] for item in yaml.safe_load(text)["items"]] == ["offpeak", "weekend", "gap"]


def test_next_skips_what_the_clock_skips(capsys, cluster):
    code, out, _ = _run(capsys, "next", cluster, "gap", "-n", "2", "--at", NIGHT, "-o", "json")
    assert code == 0
    assert [item["opens_at"] for item in json.loads(out)["items"]] == [
        "2026-04-05T02:15:00+02:00",
        "2026-04-12T02:15:00+02:00",
    ]


@pytest.mark.parametrize(
    ("at", "slice_", "open_", "fits", "next_fit"),
    [
        (NIGHT, "6h", True, True, "2026-03-26T23:00:00+01:00"),
        (NIGHT, "7h", True, False, "2026-03-27T22:00:00+01:00"),
        (NIGHT, "8h", True, False, None),  # nothing of the way out would fit
        ("2026-03-27T06:00:00+01:00", "1m", False, False, "2026-03-27T22:00:00+01:00"),
        (NIGHT, "9h", True, False, None),
    ],
)
def test_a_session_fits_or_is_told_when_it_does(capsys, cluster, at, slice_, open_, fits, next_fit):
    code, out, _ = _run(capsys, "test", cluster, "offpeak", "--at", at, "--slice", slice_, "-o", "json")
    tested = json.loads(out)
    assert (code, tested["open"], tested["fits"], tested["next_fit_at"]) == (0, open_, fits, next_fit)


def test_a_closed_window_is_said_in_a_sentence_and_is_no_error(capsys, cluster):
    code, out, _ = _run(capsys, "test", cluster, "offpeak", "--at", "2026-03-27T06:00:00+01:00")
    assert code == 0
    assert out.strip() == (
        "offpeak is closed at 2026-03-27T06:00:00+01:00; a session fits next at 2026-03-27T22:00:00+01:00"
    )


@pytest.mark.parametrize(
    ("at", "until", "deferred"),
    [
        (NIGHT, "2026-03-27T05:58:15+01:00", []),
        ("2026-03-27T05:29:00+01:00", "2026-03-27T05:59:35+01:00", ["evaluate", "register"]),
    ],
    ids=["all of it", "no time to evaluate"],
)
def test_a_session_that_fits_is_told_with_its_course(capsys, cluster, at, until, deferred):
    asked = ("test", cluster, "offpeak", "--at", at, "--slice", "30m")
    code, out, _ = _run(capsys, *asked, "-o", "json")
    assert (code, json.loads(out)["trains_until"], json.loads(out)["deferred"]) == (0, until, deferred)
    _, words, _ = _run(capsys, *asked)
    assert ("wait for another night" in words) == bool(deferred)


def test_mistakes_get_their_exit_codes(capsys, cluster, tmp_path):
    code, _, err = _run(capsys, "next", cluster, "ofpeak")
    assert (code, "Did you mean offpeak" in err) == (4, True)
    code, _, err = _run(capsys, "test", cluster, "offpeak", "--at", "2026-03-27T06:00:00")
    assert (code, "--at: '2026-03-27T06:00:00' has no offset" in err) == (3, True)
    code, _, err = _run(capsys, "test", cluster, "offpeak", "--slice", "8")
    assert (code, err.startswith("error: --slice: ")) == (3, True)
    code, _, _ = _run(capsys, "list", str(tmp_path / "none.yaml"))
    assert code == 3
    code, _, _ = _run(capsys, "next", cluster, "offpeak", "-n", "0")
    assert code == 2
