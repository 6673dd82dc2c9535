"""100 kills at random moments of a real apply process with its app: healthy again, nothing twice.

Seconds are printed, never asserted: a busy machine proves nothing about them.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tests.simulate.kills import lateness, victims

KILLS, NODES = 100, 2  # two nodes at a time, one for each core

pytestmark = [pytest.mark.long, pytest.mark.sweep, pytest.mark.timeout(1800)]


def test_the_app_is_healthy_again_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    results = victims(tmp_path, NODES, KILLS)
    late = lateness(results)
    duplicates = [said for result in results for said in result.duplicates]
    broken = [said for result in results for said in result.broken]
    assert not broken, broken
    assert len(late) == KILLS
    print(f"figure: random_kill_cases = {len(late)} kills")
    print(f"figure: random_kill_recovery_median = {statistics.median(late):.2f} s")
    print(f"figure: random_kill_recovery_worst = {late[-1]:.2f} s")
    print(f"figure: random_kill_duplicate_installs = {len(duplicates)} installs")
    assert not duplicates, duplicates
    # The moments were spread over the whole install: both outcomes came.
    news = [kill.answered == kill.version for result in results for kill in result.kills]
    assert 0 < sum(news) < KILLS
