"""The caller's side of a run: what is raised while it shows progress, and the signal to stop."""

import os
import signal
import threading

import endpoint as scripted
from asking import ask_about, open_store

from llmtwin_data.engine import terminate_sets
from llmtwin_data.errors import QualityGate


def test_what_the_caller_raises_ends_the_run_with_everything_stored(tmp_path):
    def refuse(*told):
        raise QualityGate("not good enough")

    with open_store(tmp_path) as store, scripted.serve(latency_ms=50) as server:
        outcome = ask_about(range(400), server.base_url, store, batch_size=1, on_tick=refuse)
        paid = server.stats()["paid_total"]

    assert isinstance(outcome.error, QualityGate)
    assert 0 < len(outcome.good()) == paid < 400


def test_sigterm_sets_the_event_only_meanwhile():
    stop = threading.Event()

    with terminate_sets(stop):
        os.kill(os.getpid(), signal.SIGTERM)

    assert stop.wait(60)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_caller_stays():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    stop = threading.Event()

    with terminate_sets(stop):
        os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)

    assert (heard, stop.is_set()) == ([signal.SIGTERM], False)


def test_other_threads_leave_signals_alone():
    found = []

    def look():
        with terminate_sets(threading.Event()):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()

    assert found == [signal.SIG_DFL]
