"""Ctrl-C and SIGTERM at the driver are counted, and given back afterwards."""

from __future__ import annotations

import signal
import threading

import pytest

from orchestrator.adapters.ray_cluster.environment import sigterm_stays
from orchestrator.adapters.ray_train.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_wish_and_a_second_one_is_urgent(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as wants_stop:
        assert wants_stop() == 0
        signal.raise_signal(number)
        assert wants_stop() == 1
        signal.raise_signal(number)
        assert wants_stop() == 2
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_signals_are_somebody_elses() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def enter() -> None:
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


def test_who_listens_for_sigterm_still_does_after_ray_has_taken_it() -> None:
    with StopSignals() as wants_stop:
        with sigterm_stays():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what `ray.init` does, with a handler of its own
        signal.raise_signal(signal.SIGTERM)
        assert wants_stop() == 1
