"""One thread ends all waits that take too long, and none that is over."""

from __future__ import annotations

import threading
import time

from embrasure.net.cutoff import Cutoffs


def test_what_takes_too_long_is_cut_once_and_the_rest_never() -> None:
    cutoffs, cut = Cutoffs(), threading.Event()
    quick = list[str]()
    with cutoffs.after(30, lambda: quick.append("cut")) as is_quick_late:
        # A later wait with an earlier end is not kept waiting by the first one.
        with cutoffs.after(0.05, cut.set) as is_late:
            assert cut.wait(5)
        assert is_late()
    with cutoffs.after(0.05, lambda: quick.append("cut")) as is_over:
        pass
    time.sleep(0.1)
    assert not is_over() and not is_quick_late() and quick == []


def test_one_thread_watches_many_and_forgets_what_is_over() -> None:
    cutoffs, before = Cutoffs(), threading.active_count()
    for _ in range(1000):
        with cutoffs.after(30, lambda: None):
            assert threading.active_count() == before + 1
    assert len(cutoffs._waits) < 200


def test_each_of_many_waits_has_its_own_end() -> None:
    cutoffs, late = Cutoffs(), list[float]()

    def wait(seconds: float) -> None:
        done = threading.Event()
        with cutoffs.after(seconds, done.set) as is_late:
            done.wait(5)
            late.append(seconds if is_late() else 0)

    threads = [threading.Thread(target=wait, args=(0.02 * n,)) for n in range(10, 0, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(late) == 10 and min(late) > 0
