"""The physics of a simulated run, each rule with numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policy.capacity.view import LossReading
from orchestrator.sim.engine import IllegalAllocationError, simulate
from orchestrator.sim.world import COST_UNITS_PER_USD, US_PER_S
from tests.sim.worlds import Script, make_world


def seconds(microseconds: int) -> float:
    return microseconds / US_PER_S


def test_the_first_start_stalls_and_the_rest_of_the_tick_works() -> None:
    run = simulate(make_world([[4], [4]], stall_s=100), Script([(4, 0), (4, 0)]))
    assert seconds(run.books.stall_us) == 4 * 100
    assert seconds(run.books.useful_us) == 4 * 500 + 4 * 600
    assert run.books.resizes == 1


def test_a_stall_longer_than_a_tick_goes_on_in_the_next() -> None:
    run = simulate(make_world([[4], [4]], stall_s=700), Script([(4, 0), (4, 0)]))
    assert seconds(run.books.stall_us) == 4 * 700
    assert seconds(run.books.useful_us) == 4 * 500


def test_a_change_within_a_stall_starts_the_stall_anew() -> None:
    run = simulate(make_world([[4], [4]], stall_s=700), Script([(4, 0), (3, 0)]))
    assert seconds(run.books.stall_us) == 4 * 600 + 3 * 600
    assert run.books.resizes == 2


def test_below_the_minimum_devices_idle_but_are_billed() -> None:
    run = simulate(make_world([[4], [4]], stall_s=100), Script([(1, 0), (1, 0)]))
    assert seconds(run.books.idle_us) == 1200
    assert run.books.cost / COST_UNITS_PER_USD == pytest.approx(1200 / 3600)
    assert run.books.resizes == 0
    assert run.books.useful_us == run.books.stall_us == 0


def test_swapping_a_device_for_one_of_another_pool_is_a_change() -> None:
    run = simulate(make_world([[4, 4], [4, 4]], stall_s=60), Script([(3, 1, 0), (2, 2, 0)]))
    assert run.books.resizes == 2
    assert seconds(run.books.stall_us) == 2 * 4 * 60


def test_a_lost_device_replaced_elsewhere_still_counts_as_a_change() -> None:
    run = simulate(make_world([[4, 4], [2, 4]], stall_s=60), Script([(4, 0, 0), (2, 2, 0)]))
    assert run.books.preempted == 2
    assert run.books.resizes == 2


def test_losing_devices_costs_every_worker_its_unsaved_work() -> None:
    run = simulate(make_world([[4], [3]], loss_s=50), Script([(4, 0), (3, 0)]))
    assert seconds(run.books.lost_us) == 4 * 50
    assert seconds(run.books.useful_us) == 4 * 600 - 200 + 3 * 600


def test_no_more_work_is_lost_than_was_done() -> None:
    run = simulate(make_world([[4], [3]], stall_s=590, loss_s=50), Script([(4, 0), (0, 0)]))
    assert seconds(run.books.lost_us) == 4 * 10
    assert run.books.useful_us == 0


def test_on_demand_devices_count_towards_the_minimum_when_work_is_lost() -> None:
    run = simulate(make_world([[1], [0]], loss_s=50), Script([(1, 3), (0, 3)]))
    assert seconds(run.books.lost_us) == 4 * 50


def test_below_the_minimum_nothing_is_lost_with_the_devices() -> None:
    run = simulate(make_world([[4], [1], [0]], loss_s=50), Script([(4, 0), (1, 0), (0, 0)]))
    assert seconds(run.books.lost_us) == 4 * 50  # the first fall; the second finds one idle device


def test_giving_devices_up_before_they_vanish_loses_no_work() -> None:
    run = simulate(make_world([[4], [4], [2]], loss_s=50), Script([(4, 0), (2, 0), (2, 0)]))
    assert run.books.lost_us == run.books.preempted == 0


def test_debounced_forgives_one_low_probe_and_takes_two() -> None:
    once = make_world([[4], [2], [4], [4]], loss=LossReading.DEBOUNCED)
    assert simulate(once, Script([(4, 0)] * 4)).books.preempted == 0
    twice = make_world([[4], [2], [3], [4]], loss=LossReading.DEBOUNCED)
    run = simulate(twice, Script([(4, 0), (4, 0), (3, 0), (3, 0)]))
    assert run.books.preempted == 1


def test_debounced_does_not_let_a_job_grow_into_a_low_probe() -> None:
    world = make_world([[4], [2]], loss=LossReading.DEBOUNCED)
    with pytest.raises(IllegalAllocationError):
        simulate(world, Script([(2, 0), (3, 0)]))


@pytest.mark.parametrize("answer", [(5, 0), (-1, 0), (4, 5), (0, 9), (4,), (2.0, 0), (True, 3)])
def test_an_answer_outside_the_offer_is_refused(answer: tuple[int, ...]) -> None:
    with pytest.raises(IllegalAllocationError):
        simulate(make_world([[4]]), Script([answer]))


def test_work_completes_inside_a_tick_and_billing_stops_there() -> None:
    run = simulate(make_world([[4]] * 3, work_s=4 * 700, stall_s=100), Script([(4, 0)] * 3))
    assert seconds(run.finished_us or 0) == 800
    assert seconds(run.books.spot_us) == 4 * 800
    assert run.books.cost == 4 * 800 * US_PER_S * 10**9
    assert len(run.ticks) == 2


def test_a_fraction_of_a_microsecond_at_the_end_is_idle_not_lost() -> None:
    run = simulate(make_world([[3]], work_s=1000), Script([(3, 0)]))
    assert run.finished_us == 333_333_334
    assert run.books.useful_us == 1000 * US_PER_S
    assert run.books.idle_us == 2


def test_a_run_that_does_not_finish_has_no_finish() -> None:
    assert simulate(make_world([[4]]), Script([(4, 0)])).finished_us is None


def test_policies_see_rows_up_to_now_and_their_own_past() -> None:
    script = Script([(4, 1), (3, 0), (2, 0)])
    simulate(make_world([[4], [3], [2]]), script)
    last = script.views[-1]
    assert [view.rows.tolist() for view in script.views] == [[[4]], [[4], [3]], [[4], [3], [2]]]
    assert last.past.tolist() == [[4, 1], [3, 0]]
    assert last.lost == (1,)
    assert last.held.spot == (2,)


def test_what_policies_get_cannot_reach_the_future_or_be_written() -> None:
    def peek(view):  # type: ignore[no-untyped-def]
        assert view.rows.base is None or not view.rows.base[view.tick + 1 :].any()
        with pytest.raises(ValueError, match="read-only"):
            view.rows[0] = 9
        return (0, 0)

    simulate(make_world([[4], [3], [2]]), Script(peek))


counts = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(
    rows=counts,
    asks=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 8)), min_size=12, max_size=12),
    loss=st.sampled_from(LossReading),
    stall=st.integers(0, 900),
    gone=st.integers(0, 900),
    work=st.integers(1, 20_000),
)
def test_paid_time_is_useful_stalled_lost_or_idle_and_nothing_else(
    rows: list[tuple[int, int]], asks: list[tuple[int, int, int]], loss: LossReading, stall: int, gone: int, work: int
) -> None:
    def clip(view):  # type: ignore[no-untyped-def]
        spot, room = [], view.terms.max_workers
        for ask, most in zip(asks[view.tick], view.offered, strict=False):
            spot.append(min(ask, most, room))
            room -= spot[-1]
        return (*spot, min(asks[view.tick][2], room))

    run = simulate(make_world(rows, loss=loss, stall_s=stall, loss_s=gone, work_s=work / 7), Script(clip))
    books = dataclasses.asdict(run.books)
    assert all(value >= 0 for value in books.values())
    assert run.books.balanced()
    assert run.books.useful_us <= run.world.work_us
    paid_s = sum(tick.spot + tick.on_demand for tick in run.ticks) * 600
    assert seconds(run.books.spot_us + run.books.on_demand_us) <= paid_s
