"""Generations: whatever is killed, and whenever, one whole generation is current."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from embrasure.errors import EmbrasureError, Unavailable
from embrasure.trust.cache import DocumentCache
from embrasure.trust.client import TrustClient
from embrasure.trust.generation import COMPLETE, CURRENT, Generations, newest_file
from tests.simulate.repository import SimRepository

ROLES = ("fleet-dev", "gates-dev")
TOP = Path(__file__).parents[2]


def fill(generations: Generations, **files: bytes) -> Path:
    made = generations.begin()
    for name, data in files.items():
        (made / f".{name}").write_bytes(data)
        (made / f".{name}").rename(made / f"{name}.json")  # as python-tuf replaces files
    return made


def test_a_generation_is_current_only_when_committed(tmp_path: Path) -> None:
    generations = Generations(tmp_path)
    assert generations.linked(CURRENT) is None
    first = fill(generations, timestamp=b"1")
    assert generations.linked(CURRENT) is None
    generations.commit(first, complete=True)
    assert generations.linked(CURRENT) == generations.linked(COMPLETE) == first


def test_unchanged_files_are_shared_and_changed_ones_are_named(tmp_path: Path) -> None:
    generations = Generations(tmp_path)
    generations.commit(fill(generations, timestamp=b"1", targets=b"1"), complete=True)
    second = fill(generations, timestamp=b"2")
    assert generations.changed(second) == {"timestamp.json"}
    generations.commit(second, complete=False)
    assert (second / "targets.json").read_bytes() == b"1"
    # What was complete is still whole.
    complete = generations.linked(COMPLETE)
    assert complete is not None
    assert (complete / "timestamp.json").read_bytes() == b"1"


def test_a_generation_without_a_change_is_dropped(tmp_path: Path) -> None:
    generations = Generations(tmp_path)
    first = fill(generations, timestamp=b"1")
    generations.commit(first, complete=False)
    generations.commit(generations.begin(), complete=True)
    assert generations.linked(CURRENT) == generations.linked(COMPLETE) == first
    assert [path.name for path in (tmp_path / "trusted").iterdir()] == [first.name]


def test_a_refresh_that_finds_nothing_new_leaves_the_disk_as_it_was(tmp_path: Path) -> None:
    repo = SimRepository()

    def refreshed() -> dict[Path, int]:
        TrustClient(tmp_path / "tuf", repo.anchor).refresh(repo.source(), roles=ROLES)
        return {path: path.lstat().st_ino for path in (tmp_path / "tuf").rglob("*")}

    assert refreshed() == refreshed()


def test_what_crashed_before_its_commit_is_removed(tmp_path: Path) -> None:
    generations = Generations(tmp_path)
    generations.commit(fill(generations, timestamp=b"1"), complete=True)
    for _ in range(3):
        fill(generations, timestamp=b"half")
    (tmp_path / "trusted" / "rubbish").write_bytes(b"x")
    fill(generations, timestamp=b"2")
    assert len(list((tmp_path / "trusted").iterdir())) == 2


@pytest.mark.parametrize("target", ["trusted/9", "../../etc", "/etc", "trusted/../x", "trusted/a"])
def test_a_strange_link_counts_as_none(tmp_path: Path, target: str) -> None:
    generations = Generations(tmp_path)
    (tmp_path / CURRENT).symlink_to(target)
    assert generations.linked(CURRENT) is None
    generations.commit(fill(generations, timestamp=b"1"), complete=True)
    assert generations.linked(CURRENT) is not None


def test_links_inside_a_generation_are_not_followed(tmp_path: Path) -> None:
    generations = Generations(tmp_path)
    first = fill(generations, timestamp=b"1")
    (first / "secret.json").symlink_to("/etc/passwd")
    generations.commit(first, complete=True)
    assert not (generations.begin() / "secret.json").exists()


# --- killed in the middle --------------------------------------------------------------------

CHILD = """
import os, signal, sys
from pathlib import Path
from embrasure.trust.client import TrustClient
from embrasure.trust.folder import FolderSource
kinds = ("open", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir")
left, folder, repo = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
client = TrustClient(folder, (repo / "metadata/1.root.json").read_bytes())
count = 0
def watch(event, arguments):
    global count
    if event in kinds and str(folder) in os.fsdecode(str(arguments)) or event in kinds[1:]:
        count += 1
        if count == left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
client.refresh(FolderSource(repo), roles=("fleet-dev", "gates-dev"))
print(count)
"""


def refresh_and_die(left: int, folder: Path, repo: Path) -> int | None:
    """Return how many changes of the disk a refresh made; None when it was killed at `left`."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(left), str(folder), str(repo)],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return int(done.stdout) if done.returncode == 0 else None


def test_a_refresh_killed_at_any_step_leaves_a_view_and_its_floors(tmp_path: Path) -> None:
    repo = SimRepository()
    repo.publish()
    served = repo.write(tmp_path / "repo")
    old = repo.frozen_source()
    TrustClient(tmp_path / "before", repo.anchor).refresh(old, roles=ROLES)
    repo.touch("root", "targets", "fleet-dev", "gates-dev")
    repo.publish()
    repo.write(served)

    def copy(name: str) -> Path:
        return shutil.copytree(tmp_path / "before", tmp_path / name, symlinks=True)

    steps = refresh_and_die(0, copy("whole"), served)
    assert steps is not None
    # Early steps are python-tuf's; the last ones are the links and the floors: each of them.
    seen = set()
    for left in [*range(1, steps - 12, steps // 6), *range(steps - 12, steps + 1, 2)]:
        folder = copy(f"killed-{left}")
        assert refresh_and_die(left, folder, served) is None
        client = TrustClient(folder, repo.anchor)
        held = client.held()
        assert {"root", "snapshot", "targets", *ROLES} <= set(held.roles)
        seen.add(held.roles["timestamp"].version)
        assert client.refresh(repo.source(), roles=ROLES).roles["timestamp"].version == 3
        with pytest.raises(EmbrasureError) as refused:
            client.refresh(old, roles=ROLES)
        assert refused.value.reason == "rollback"
        assert len(list((folder / "trusted").iterdir())) <= 2
    assert seen == {2, 3}


# --- two at once -----------------------------------------------------------------------------


def test_two_at_once_wait_for_each_other(tmp_path: Path) -> None:
    repo = SimRepository()
    failures: list[BaseException] = []

    def refresh() -> None:
        try:
            client = TrustClient(tmp_path / "tuf", repo.anchor)
            for _ in range(3):
                client.refresh(repo.source(), roles=ROLES)
                client.held()
                repo_lock.acquire()
                repo.publish()
                repo_lock.release()
        except BaseException as problem:
            failures.append(problem)

    repo_lock = threading.Lock()
    threads = [threading.Thread(target=refresh) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A thread may be served between two publishes of another: only that refusal is honest.
    assert all(getattr(problem, "reason", "") == "rollback" for problem in failures), failures
    TrustClient(tmp_path / "tuf", repo.anchor).refresh(repo.source(), roles=ROLES)


def test_a_second_refresh_is_told_that_the_folder_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = SimRepository()
    first = TrustClient(tmp_path / "tuf", repo.anchor)
    second = TrustClient(tmp_path / "tuf", repo.anchor)
    monkeypatch.setattr("embrasure.limits.LOCK_SECONDS", 0.05)
    with first.workflow._locked(), pytest.raises(Unavailable) as busy:
        second.refresh(repo.source(), roles=ROLES)
    assert busy.value.reason == "busy"
    second.refresh(repo.source(), roles=ROLES)


# --- documents -------------------------------------------------------------------------------


def test_the_document_cache_forgets_what_was_unused_for_longest(tmp_path: Path) -> None:
    cache = DocumentCache(tmp_path / "documents", count=3, total_bytes=100)
    names: list[Path] = []
    for number in range(3):
        cache.put(bytes([number]) * 10)
        (path,) = set(cache.folder.iterdir()) - set(names)
        names.append(path)
        stamp = datetime(2026, 1, 1 + number, tzinfo=UTC).timestamp()
        os.utime(path, (stamp, stamp))
    assert cache.get(names[0].name, length=10) == bytes(10)  # used just now
    cache.put(b"x" * 10)
    assert not names[1].exists()
    cache.put(b"y" * 95)
    assert len(list(cache.folder.iterdir())) == 1
    assert cache.get("0" * 64, length=10) is None


def test_the_newest_file_of_a_role_is_the_current_one_else_the_last_complete(
    tmp_path: Path,
) -> None:
    assert newest_file(tmp_path, "snapshot", limit=10) == b""
    generations = Generations(tmp_path)
    assert newest_file(tmp_path, "snapshot", limit=10) == b""
    generations.commit(fill(generations, snapshot=b"1"), complete=True)
    assert newest_file(tmp_path, "snapshot", limit=10) == b"1"
    second = fill(generations, root=b"2")
    (second / "snapshot.json").unlink()  # as a newer root drops it
    generations.commit(second, complete=False)
    assert newest_file(tmp_path, "snapshot", limit=10) == b"1"
    assert newest_file(tmp_path, "targets", limit=10) == b""


def test_what_was_put_is_kept_though_it_is_larger_than_all_that_may_be(tmp_path: Path) -> None:
    cache = DocumentCache(tmp_path / "documents", count=3, total_bytes=100)
    cache.put(b"x")
    cache.put(b"y" * 101)
    (path,) = cache.folder.iterdir()
    assert cache.get(path.name, length=101) == b"y" * 101


def test_what_another_process_trimmed_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, listdir = DocumentCache(tmp_path / "documents", count=1), os.listdir
    cache.put(b"x")

    def racing(folder: int) -> list[str]:
        """The kernel's answer, one file of which is gone before anybody looks at it."""
        found = listdir(folder)
        for name in found:
            if (cache.folder / name).read_bytes() == b"x":
                (cache.folder / name).unlink()
        return found

    monkeypatch.setattr(os, "listdir", racing)
    cache.put(b"y")
    monkeypatch.undo()
    assert [path.read_bytes() for path in cache.folder.iterdir()] == [b"y"]


def test_a_damaged_generation_without_its_history_is_begun_from_all_the_same(
    tmp_path: Path,
) -> None:
    generations = Generations(tmp_path)
    first = fill(generations, timestamp=b"1")
    generations.commit(first, complete=True)
    (first / "root_history").rmdir()
    assert (generations.begin() / "timestamp.json").read_bytes() == b"1"
