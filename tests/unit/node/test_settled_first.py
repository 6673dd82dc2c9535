"""What an earlier call left open is settled first; what was judged before that is judged again."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from embrasure import fsops
from embrasure.errors import Failed
from embrasure.fsops import Op
from tests.simulate.installer import SimInstaller


class Fails:
    """The journal cannot be written as soon as the new release has been switched to."""

    def __init__(self) -> None:
        self.switches = self.count = 0  # the first one is the trust files'

    def before(self, op: Op) -> int | None:
        if op.call == "create" and op.name == "shop.next" and self.switches == 2:
            self.count += 1
            raise OSError(errno.EIO, "not written")
        return None

    def after(self, op: Op, result: int) -> None:
        self.switches += op.call == "rename" and op.new == "current"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[SimInstaller]:
    with closing(SimInstaller(tmp_path)) as made:
        yield made


def test_a_release_that_is_committed_by_settling_is_done_and_not_refused(
    bench: SimInstaller,
) -> None:
    bench.publish("1.0")
    fails = Fails()
    with fsops.watched(fails), pytest.raises(Failed):
        bench.poll()
    assert fails.count, "the disk failed in the middle of the install"
    bench.clock.ahead += timedelta(hours=2)
    bench.repo.publish()
    assert bench.poll() == "none done", "not `rejected turn`: it is what runs"
    assert [receipt.outcome.name for receipt in bench.told()] == ["OK", "OK"]
