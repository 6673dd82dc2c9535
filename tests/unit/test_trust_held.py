"""What lies on the disk of the offline roles, while another process changes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from embrasure.trust import layout
from embrasure.trust.door import Door
from embrasure.trust.held import HeldFiles
from tests.simulate.trustbench import Bench


def test_a_refresh_while_the_files_are_read_is_seen(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.repo.publish()
    bench.refresh()
    folder = Door(bench.client(), env="dev").folder
    held = HeldFiles(folder, bench.client(), env="dev")
    before = held.newest().signed[layout.TARGETS].version
    refreshed: list[int] = []

    def nothing_more(role: str, version: int) -> Iterable[bytes]:
        if role == layout.TARGETS and not refreshed:
            bench.repo.add_app("another")
            bench.repo.publish()
            bench.refresh()
            refreshed.append(version)
        return ()

    assert held.newest(nothing_more).signed[layout.TARGETS].version > before
    # What else was shown is no part of what is remembered.
    assert held.newest().signed[layout.TARGETS].version > before
