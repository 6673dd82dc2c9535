"""A production node where other users may pass: root, fetch's user, the app's user."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from embrasure.sandbox import CAPABILITIES, keep_capabilities
from node.users import User
from tests.simulate.fleet import APP, RealNode, SimFleet

T = TypeVar("T")
# Of this test process alone: a node ends every process of an app's user.
_FIRST = 20_000 + os.getpid() % 4_000 * 10
FETCH, SHOP, STRANGER = (User(number, number) for number in range(_FIRST, _FIRST + 3))


def as_apply(work: Callable[[], T]) -> T:
    """Return what `work` returns to a root that has what apply keeps, so no right over others."""

    def run() -> T:
        keep_capabilities(CAPABILITIES)  # of this thread, and of what it starts
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


@contextmanager
def passable() -> Iterator[Path]:
    """Yield a folder below `/var/tmp` that other users may pass; it is gone afterwards."""
    top = Path(tempfile.mkdtemp(prefix="embrasure-node-", dir="/var/tmp"))
    top.chmod(0o755)
    try:
        yield top
    finally:
        shutil.rmtree(top)


def in_production(fleet: SimFleet, name: str, **wishes: object) -> RealNode:
    """Return a new enrolled node whose owner asks for production."""
    node = fleet.make(name, **wishes)  # type: ignore[arg-type]  # by name
    with node.paths.node_toml.open("a") as file:
        file.write(f'production = true\nfetch_user = "{FETCH.uid}"\n')
    app = node.paths.app_toml(APP)
    app.write_text(f'user = "{SHOP.uid}"\n' + app.read_text())
    return node
