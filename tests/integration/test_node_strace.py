"""SIGKILL at every mutating system call of the real `embrasure node apply`, a sample by default.

`python -m bench.strace_sweep` takes every point.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.simulate.strace import WAYS, Strace
from tests.simulate.trees import room

POINTS = {"first": 18, "upgrade": 20, "rollback": 8}

pytestmark = [
    pytest.mark.long,
    pytest.mark.sweep,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]


@pytest.fixture
def strace() -> Iterator[Strace]:
    with room() as folder:
        yield Strace(folder)


def test_a_kill_at_any_system_call_leaves_one_whole_release(strace: Strace) -> None:
    strace.prepare()
    chosen, every = [], 0
    for name in WAYS:
        points = strace.points(name)
        # Every call that one run made: far more than a sample of our own operations.
        calls = {"openat", "ioctl", "renameat", "renameat2", "symlinkat", "fsync", "syncfs"}
        assert calls <= {point.call for point in points}
        every += len(points)
        chosen += [points[at * len(points) // POINTS[name]] for at in range(POINTS[name])]
    killed, broken = strace.sweep(chosen)
    print(f"figure: strace_sweep_cases = {len(chosen)} cases")
    print(f"figure: strace_sweep_points = {every} system calls")
    print(f"figure: strace_sweep_broken = {len(broken)} cases")
    assert not broken, "\n".join(broken[:10])
    # A run that goes another way than the first one may have fewer such calls.
    assert killed >= len(chosen) * 9 // 10
