"""Quantities, times and names: what is read, what is written, and that writing reads back."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spec.names import parse_name, parse_reference, split_reference
from orchestrator.spec.problems import BadValueError
from orchestrator.spec.quantities import (
    BYTES,
    SECONDS,
    parse_duration,
    parse_size,
    render_duration,
    render_size,
)
from orchestrator.spec.scalars import (
    Plain,
    parse_core,
    parse_flag,
    parse_money,
    parse_real,
    parse_whole,
    render_money,
    render_real,
)
from orchestrator.spec.times import parse_clock, parse_deadline, parse_instant, parse_zone, render_clock

DECIMALS = st.decimals(0, 10**6, places=3, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("15m", 900.0),
        ("8h", 28800.0),
        ("2d", 172800.0),
        ("250ms", 0.25),
        ("5us", 5e-6),
        ("1.5h", 5400.0),
    ],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("24GiB", 24 * 2**30), ("1GB", 10**9), ("1.5KiB", 1536), ("12B", 12), ("2kB", 2000)]
)
def test_sizes_are_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (90.0, "90s"), (7200.0, "2h"), (172800.0, "2d"), (0.25, "250ms"), (5400, "90m")],
)
def test_durations_are_written_in_the_largest_whole_unit(seconds: float, text: str) -> None:
    assert render_duration(seconds) == text


@given(DECIMALS, st.sampled_from(sorted(SECONDS)))
def test_durations_round_trip(amount: Decimal, unit: str) -> None:
    try:
        seconds = parse_duration(f"{amount}{unit}")
    except BadValueError:
        assert amount * SECONDS[unit] > 100 * 366 * 86400
        return
    assert parse_duration(render_duration(seconds)) == seconds


@given(st.integers(0, 2**62))
def test_sizes_round_trip(size: int) -> None:
    assert parse_size(render_size(size)) == size


@given(st.integers(1, 2**20), st.sampled_from(sorted(BYTES)))
def test_sizes_mean_amount_times_unit(amount: int, unit: str) -> None:
    assert parse_size(f"{amount}{unit}") == amount * BYTES[unit]


@given(st.decimals(0, 10**12, places=6, allow_nan=False, allow_infinity=False))
def test_money_is_exact_and_round_trips(amount: Decimal) -> None:
    assert parse_money(str(amount)) == amount
    assert parse_money(str(parse_money(str(amount)))) == amount


def test_money_from_code_may_have_an_exponent() -> None:
    assert parse_money(Decimal("1E+3")) == 1000
    assert render_money(Decimal("1E+3")) == "1000"
    assert parse_money(12) == 12


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_round_trip(number: float) -> None:
    assert parse_real(render_real(number)) == number


@given(st.times())
def test_wall_times_round_trip_to_the_minute(time: dt.time) -> None:
    assert parse_clock(render_clock(time)) == time.replace(second=0, microsecond=0)


INSTANTS = st.datetimes(
    dt.datetime(1970, 1, 2),
    dt.datetime(2199, 12, 30),
    timezones=st.just(dt.timezone(dt.timedelta(hours=5, minutes=45))),
)


@given(INSTANTS)
def test_instants_round_trip_with_their_offset(instant: dt.datetime) -> None:
    again = parse_instant(instant.isoformat())
    assert again == instant
    assert again.utcoffset() == instant.utcoffset()


PARSERS: list[Any] = [parse_duration, parse_size, parse_money, parse_whole, parse_real, parse_clock, parse_instant]
PARSERS += [parse_zone, parse_deadline, parse_flag, parse_name, parse_reference]


@given(st.sampled_from(PARSERS), st.one_of(st.text(), st.none(), st.booleans(), st.lists(st.text()), st.just({})))
def test_whatever_it_is_a_parser_reads_it_or_says_what_is_wrong(parse: Any, value: Any) -> None:
    try:
        parse(value)
        said = "read"
    except BadValueError as error:
        said = f"{error.what}{error.want}"
    assert said


@pytest.mark.parametrize("text", ["8h\n", "24GiB\n", "22:00\n", "UTC\n", "name\n", "5\n", "1.5\n", "true\n", "a@1\n"])
def test_a_final_line_break_does_not_slip_through(text: str) -> None:
    for parse in PARSERS:
        with pytest.raises(BadValueError):
            parse(text)


@pytest.mark.parametrize(("text", "typed"), [("12", 12), ("0x1F", 31), ("1.5", 1.5), ("3e-4", 3e-4), ("true", True)])
def test_free_values_follow_yaml_1_2_when_plain(text: str, typed: object) -> None:
    assert parse_core(Plain(text)) == typed
    assert parse_core(text) == text


@pytest.mark.parametrize("text", ["22:00", "no", "on", "2026-03-01", "1_000", "12e", "+", "0b11"])
def test_free_values_that_only_yaml_1_1_would_type_stay_text(text: str) -> None:
    assert parse_core(Plain(text)) == text


def test_a_reference_splits_into_name_and_version() -> None:
    assert split_reference(parse_reference("gpt-code@sha256:ab12")) == ("gpt-code", "sha256:ab12")
