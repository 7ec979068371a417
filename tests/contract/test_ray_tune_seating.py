"""Which seats a study gives back: as few people as possible get up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.adapters.ray_tune.seating import to_give_back


def test_seats_in_which_nobody_runs_go_first() -> None:
    assert to_give_back({"a": 1, "b": 2, "c": 1}, {"a", "b"}, 3) == ("c",)
    assert to_give_back({"a": 1, "b": 2}, {"a"}, 2) == ("b",)


def test_of_busy_seats_the_smallest_that_is_enough_goes() -> None:
    assert to_give_back({"a": 1, "b": 2, "c": 4}, {"a", "b", "c"}, 5) == ("b",)
    assert to_give_back({"a": 1, "b": 2}, {"a", "b"}, 0) == ("b", "a")


def test_nothing_goes_where_the_lease_covers_it() -> None:
    assert to_give_back({"a": 2}, {"a"}, 2) == ()
    assert to_give_back({}, set(), 0) == ()


@given(
    seats=st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.integers(1, 5), max_size=6),
    may=st.integers(0, 12),
    data=st.data(),
)
def test_what_stays_fits_and_nothing_goes_that_could_have_stayed(
    seats: dict[str, int], may: int, data: st.DataObject
) -> None:
    busy = data.draw(st.sets(st.sampled_from(sorted(seats)))) if seats else set()
    gone = to_give_back(seats, busy, may)
    stays = sum(workers for key, workers in seats.items() if key not in gone)
    assert stays <= may
    assert not gone or stays + seats[gone[-1]] > may
