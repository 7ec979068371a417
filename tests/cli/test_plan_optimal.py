"""`tide plan --optimal`: what a budget buys, without a file."""

from __future__ import annotations

import json

import pytest

from orchestrator.cli.main import main

EXACT = ("--usd-per-device-hour", "2", "--mfu", "0.4", "--goodput", "1", "--watts-per-device", "1000", "--pue", "1.25")


def _run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["plan", "--optimal", *arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def _found(capsys, *arguments):
    code, out, err = _run(capsys, *arguments, "-o", "json")
    assert code == 0, err
    return json.loads(out)


def test_dollars_buy_flops_a_model_and_tokens(capsys) -> None:
    found = _found(capsys, "--device", "h100", "--budget-usd", "5000", *EXACT)
    assert (found["apiVersion"], found["kind"], found["bound_by"]) == ("tideline/v1", "BudgetPlan", "usd")
    flops = 2500 * 3600 * 989.4e12 * 0.4
    assert found["optimal"]["flops"] == pytest.approx(flops)
    assert 6 * found["optimal"]["params"] * found["optimal"]["tokens"] == pytest.approx(flops)
    assert found["rule_20_tokens"]["tokens_per_param"] == pytest.approx(20)
    assert found["usd"]["typical"] == pytest.approx(5000)
    assert found["kwh"]["typical"] == pytest.approx(2500 * 1.25)


def test_energy_hours_and_flops_ask_the_same_question(capsys) -> None:
    answers = [
        _found(capsys, "--device", "h100", *limit, *EXACT)["optimal"]["params"]
        for limit in (("--budget-usd", "5000"), ("--budget-device-hours", "2500"), ("--budget-kwh", "3125"))
    ]
    assert answers == pytest.approx([answers[0]] * 3)


def test_people_get_it_in_100_columns(capsys) -> None:
    code, out, err = _run(capsys, "--device", "h100", "--budget-usd", "5000", "--served-tokens", "1T")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert "ends by" in out
    assert "Assumes MFU 0.3-0.57" in out


def test_a_deadline_says_how_many_devices(capsys) -> None:
    found = _found(capsys, "--device", "h100", "--budget-usd", "5000", "--deadline", "10h", *EXACT)
    assert found["devices"]["for_deadline"] == 250
    within = _found(capsys, "--device", "h100", "--deadline", "10h", "--max-devices", "8", *EXACT)
    assert (within["bound_by"], within["device_hours"]["typical"]) == ("deadline", pytest.approx(80))


def test_a_given_model_is_priced(capsys) -> None:
    found = _found(capsys, "--device", "a100", "--params", "7B", *EXACT)
    assert (found["bound_by"], found["optimal"]["tokens"]) == ("model", pytest.approx(140e9))
    assert found["device_hours"]["typical"] == pytest.approx(6 * 7e9 * 140e9 / (0.4 * 312e12) / 3600)


def test_serving_buys_a_smaller_model_for_longer(capsys) -> None:
    bare = _found(capsys, "--device", "h100", "--budget-usd", "100000", *EXACT)
    served = _found(capsys, "--device", "h100", "--budget-usd", "100000", "--served-tokens", "10T", *EXACT)
    assert served["optimal"]["params"] < bare["optimal"]["params"]
    assert served["optimal"]["tokens_per_param"] > bare["optimal"]["tokens_per_param"]
    assert served["usd"]["typical"] < bare["usd"]["typical"]


def test_a_device_of_ones_own_is_described_by_hand(capsys) -> None:
    arguments = ("--device", "home-made", "--peak-tflops", "100", "--memory-gib", "64", "--budget-device-hours", "10")
    found = _found(capsys, *arguments, "--mfu", "0.5", "--goodput", "1")
    assert found["optimal"]["flops"] == pytest.approx(10 * 3600 * 50e12)
    assert (found["usd"], found["kwh"], found["serving"]) == (None, None, None)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--device", "h100", "--params", "175B", "--max-devices", "8"], 8, "does not fit on 8 x H100-80GB"),
        (["--device", "h100", "--budget-flops", "1e-9"], 8, "it must buy one of each"),
        (["--device", "h100", "--budget-usd", "1e308"], 3, "finite"),
        (["--device", "h100"], 3, "there is no limit"),
        (["--budget-usd", "5"], 3, "--device: is missing"),
        (["--device", "h100", "--budget-usd", "nan"], 3, "--budget-usd is nan"),
        (["--device", "h100", "--budget-usd", "0"], 3, "--budget-usd is 0.0"),
        (["--device", "h100", "--budget-flops", "-1e20"], 3, "--budget-flops is -1e+20"),
        (["--device", "h100", "--budget-kwh", "inf"], 3, "--budget-kwh is inf"),
        (["--device", "h100", "--budget-flops", "1e20", "--max-devices", "0"], 3, "--max-devices is 0"),
        (["--device", "h100", "--budget-flops", "1e20", "--served-tokens", "-1"], 3, "'-1' is not a count"),
        (["--device", "b200", "--budget-usd", "5"], 3, "--usd-per-device-hour: is missing"),
        (["--device", "v1", "--budget-usd", "5"], 3, "device is 'v1'"),
        (["job.yaml", "--device", "h100"], 2, "no effect with --optimal"),
    ],
)
def test_what_is_wrong_is_said(capsys, arguments, code: int, words: str) -> None:
    got, out, err = _run(capsys, *arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
