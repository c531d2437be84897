"""Pace: slow start, one cut a burst, breaker, patience; on a clock of the test."""

import math

import pytest

from llmtwin_data.transport import Pace, Patience


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def pace_of(clock, *, ceiling=64, **settings):
    return Pace(Patience(), ceiling=ceiling, now=clock, **settings)


def test_one_call_goes_out_until_the_first_success(clock):
    pace = pace_of(clock)

    pace.start()

    assert pace.wait() == math.inf


@pytest.mark.parametrize(("ceiling", "trips"), [(64, 2), (256, 2), (1024, 2)])
def test_slow_start_reaches_the_ceiling_in_a_few_round_trips(clock, ceiling, trips):
    pace = pace_of(clock, ceiling=ceiling)

    for _ in range(trips):
        for _ in range(int(pace.limit)):
            pace.succeeded()

    assert pace.limit == ceiling


def test_after_a_cut_it_grows_by_a_sixteenth_of_the_ceiling_a_round_trip(clock):
    pace = pace_of(clock)
    for _ in range(10):
        pace.succeeded()
    pace.overloaded(clock(), wait=None)
    cut = pace.limit

    for _ in range(int(cut)):
        pace.succeeded()

    assert cut == 32
    assert cut + 3.5 < pace.limit <= cut + 4


def test_a_second_burst_without_success_leaves_one_call(clock):
    pace = pace_of(clock)
    for _ in range(10):
        pace.succeeded()
    pace.overloaded(0.0, wait=None)
    clock.now = 1.0

    pace.overloaded(1.0, wait=None)

    assert pace.limit == 1
    assert pace.wait() > 0


def test_retry_after_holds_everybody_back(clock):
    pace = pace_of(clock)
    pace.succeeded()

    pace.overloaded(0.0, wait=6.0)

    assert pace.wait() == 6.0


def test_retry_after_zero_is_not_a_licence_to_hammer(clock):
    pace = pace_of(clock)
    for moment in (0.0, 1.0, 2.0):
        clock.now = moment
        pace.overloaded(moment, wait=0.0)

    assert pace.wait() >= 1.0


def test_single_faults_between_successes_do_not_slow_down(clock):
    pace = pace_of(clock)
    for _ in range(20):
        pace.succeeded()

    for _ in range(20):
        pace.faulted(clock(), reached=True)
        pace.succeeded()

    assert pace.limit == 64


def test_the_breaker_leaves_single_probes_and_one_success_closes_it(clock):
    pace = pace_of(clock)
    for _ in range(20):
        pace.succeeded()
    for _ in range(64):
        pace.faulted(0.0, reached=True)
    opened = pace.limit

    pace.succeeded()

    assert opened == 1
    assert pace.limit == 8


def test_a_burst_of_faults_waits_for_one_backoff(clock):
    pace = pace_of(clock)
    pace.succeeded()

    for _ in range(64):
        pace.faulted(0.0, reached=True)

    assert pace.wait() == Patience().backoff


def test_requests_per_minute_are_spaced(clock):
    pace = pace_of(clock, requests_per_minute=30)
    pace.succeeded()

    pace.start()

    assert pace.wait() == 2.0


def test_nobody_there_is_left_sooner_than_somebody_down(clock):
    never, once = pace_of(clock), pace_of(clock)
    once.succeeded()
    for pace in (never, once):
        pace.faulted(0.0, reached=False)
    clock.now = 9.0

    assert never.hopeless(0.0)
    assert not once.hopeless(0.0)
