"""After a sync that failed nothing is believed that was written before it: not by a second sync,
and not by a hash, which would read pages of memory that the disk never got.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from embrasure import fsops
from embrasure.bundle.store import BlobStore
from embrasure.bundle.twins import Twins
from embrasure.errors import EmbrasureError, Failed
from embrasure.fs import Folder
from embrasure.fsops import Call, Op
from node.early import Early
from tests.ablation import Ablation
from tests.simulate.releases import make_release

HALF, WHOLE = b"came", b"came, and went on"


class Failing:
    """A disk on which the first of each of these operations fails, one after the other."""

    def __init__(self, *errors: Call) -> None:
        self._errors = list(errors)

    def fails(self, call: Call) -> None:
        """The next one of these fails, too."""
        self._errors.append(call)

    def before(self, op: Op) -> int | None:
        if self._errors and op.call == self._errors[0]:
            del self._errors[0]
            raise OSError(errno.EIO, "Input/output error")
        return None

    def after(self, op: Op, result: int) -> None:
        pass


def name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# The first that is to go has the last name: a sync gets to all others before.
FILES = dict(sorted(
    ((f"config/{number}", b"number %d" % number) for number in range(5)),
    key=lambda file: name(file[1]), reverse=True,
))  # fmt: skip


def one_by_one(self: BlobStore) -> None:
    """Forget each once it is gone, as long as the disk takes it; the rest waits for a sync."""
    for digest in list(self._pending):
        self._drop(digest)
        del self._pending[digest]


def only_what_waits(self: BlobStore) -> None:
    """Forget what is whole; a transfer goes on with what it has written."""
    waiting = list(self._pending)
    self._pending.clear()
    for digest in waiting:
        with suppress(EmbrasureError):
            self._drop(digest)


def begin(store: BlobStore) -> None:
    with store.writer(name(WHOLE), length=len(WHOLE)) as writer:
        writer.write(HALF)


def named_after(store: BlobStore, early: Early | None, *errors: Call) -> int:
    """Return how many blobs have a name after a sync that failed and one that did not."""
    for data in FILES.values():
        assert store.put(name(data), data, at=early)
    with fsops.watched(Failing(*errors)):
        with pytest.raises(EmbrasureError):
            store.sync()
        with suppress(EmbrasureError):
            store.sync()
    return sum((store.folder / name(d)[:2] / name(d)).exists() for d in FILES.values())


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[BlobStore, BlobStore]]:
    with (
        closing(BlobStore(tmp_path / "one")) as one,
        closing(BlobStore(tmp_path / "two")) as two,
    ):
        yield one, two


@pytest.mark.misuse
@pytest.mark.parametrize("is_early", [False, True], ids=["partial", "early"])
def test_a_disk_that_does_not_let_lost_files_go_gets_no_second_sync_for_them(
    tmp_path: Path, stores: tuple[BlobStore, BlobStore], ablation: Ablation, is_early: bool
) -> None:
    def attacked(store: BlobStore) -> int:
        if not is_early:
            return named_after(store, None, "syncfs", "unlink")
        manifest = make_release("shop", {"code/main": b"#!", **FILES}).manifest
        with (
            Folder.open(store.folder.with_suffix(".releases"), create=True) as releases,
            Early(releases, tx="ab" * 16, manifest=manifest, blobs=store) as early,
        ):
            return named_after(store, early, "syncfs", "unlink")

    assert attacked(stores[0]) == 0
    assert not any(stores[0].has(name(d), length=len(d)) for d in FILES.values())
    with ablation("that nothing is pending before anything is dropped") as attack:
        attack.without("embrasure.bundle.store.BlobStore._lose", one_by_one)
        attack.succeeded(attacked(stores[1]) >= 4)


def test_a_disk_that_does_not_even_show_its_files_is_called_that(
    tmp_path: Path, stores: tuple[BlobStore, BlobStore]
) -> None:
    store, nowhere = stores[0], os.open(os.devnull, os.O_PATH)
    manifest = make_release("shop", {"code/main": b"#!", **FILES}).manifest
    with (
        Folder.open(tmp_path / "releases", create=True) as releases,
        pytest.raises(Failed) as problem,
        Early(releases, tx="ab" * 16, manifest=manifest, blobs=store) as early,
    ):
        for data in FILES.values():
            store.put(name(data), data, at=early)
        os.dup2(nowhere, store._partials.fd)  # answers neither a sync nor a look
        store.sync()
    os.close(nowhere)
    assert problem.value.reason == "io"
    assert not early.done
    assert not any(store.has(name(d), length=len(d)) for d in FILES.values())


@pytest.mark.misuse
def test_what_came_before_a_sync_that_failed_is_not_gone_on_with(
    stores: tuple[BlobStore, BlobStore], ablation: Ablation
) -> None:
    def held(store: BlobStore) -> int:
        begin(store)
        named_after(store, None, "syncfs")
        with store.writer(name(WHOLE), length=len(WHOLE)) as writer:
            return writer.offset

    assert held(stores[0]) == 0
    with ablation("that what was begun goes, too") as attack:
        attack.without("embrasure.bundle.store.BlobStore._lose", one_by_one)
        attack.succeeded(held(stores[1]) == len(HALF))


@pytest.mark.misuse
def test_a_transfer_that_runs_meanwhile_is_no_blob(
    stores: tuple[BlobStore, BlobStore], ablation: Ablation
) -> None:
    """The store's descriptor was told of the error once; its next sync is good."""

    def goes_on(store: BlobStore) -> None:
        with store.writer(name(WHOLE), length=len(WHOLE)) as writer:
            writer.write(HALF)
            assert named_after(store, None, "syncfs") == 0
            writer.write(WHOLE[len(HALF) :])
            writer.commit()
        store.sync()

    with pytest.raises(Failed) as problem:
        goes_on(stores[0])
    assert problem.value.reason == "io"
    stores[0].sync()
    begin(stores[0])
    with ablation("the drop of what is being written") as attack:
        attack.without("embrasure.bundle.store.BlobStore._lose", only_what_waits)
        goes_on(stores[1])
        attack.succeeded(stores[1].has(name(WHOLE), length=len(WHOLE)))


def test_a_twin_that_the_disk_does_not_let_go_takes_no_other_name_for_ever(
    stores: tuple[BlobStore, BlobStore],
) -> None:
    store = stores[0]
    for data in FILES.values():
        assert store.put(name(data), data)
    store.sync()

    def lent(twins: Twins) -> int:
        with ExitStack() as shelves:
            held = {name(d): shelves.enter_context(store.shelf(name(d))) for d in FILES.values()}
            return sum(twins.lend(digest, shelf) is not None for digest, shelf in held.items())

    errors = Failing()
    with fsops.watched(errors), pytest.raises(EmbrasureError), store.twins() as twins:
        assert lent(twins) == len(FILES)
        errors.fails("unlink")
        raise Failed("sync", expected="a disk that takes it", got="none")
    with store.twins() as twins:
        assert lent(twins) == len(FILES)
        twins.drop()
    assert not list((store.folder / ".partial").iterdir())
