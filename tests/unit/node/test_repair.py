"""`node repair`: what was changed is what was approved again, built beside it and exchanged."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from embrasure.errors import Denied, EmbrasureError, NotFound
from node import pins, verify
from node.answering import NoSource
from node.show import verified_text
from node.states import State
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller, Told
from tests.unit.node.test_migration import migrating
from tests.unit.node.test_way_back_rules import denies_old, policy_says


def release_of(bench: SimInstaller) -> Path:
    return bench.paths.current(bench.app).resolve()


def change(path: Path, data: bytes) -> None:
    """Other bytes under the same inode: a store that shares it rots as well."""
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def repair(bench: SimInstaller, *, with_source: bool = False) -> str:
    source = bench.source() if with_source else NoSource()
    answer = bench.acceptor.repair(bench.app, source, Told())
    return f"{answer.kind} {answer.reason}".strip()


def drift(bench: SimInstaller) -> list[str]:
    (found,) = verify.verify(bench.paths, bench.app)
    return [f"{one.what} {one.path}" for one in found.drift]


def test_a_whole_release_is_left_alone(running: SimInstaller) -> None:
    before = running.supervisor.running(running.app)
    assert repair(running) == "none whole"
    assert running.supervisor.running(running.app) == before


def test_every_kind_of_drift_is_found_and_repaired(running: SimInstaller) -> None:
    release = release_of(running)
    change(release / "config" / "version", b"9.9")
    (release / "code").chmod(0o755)
    (release / "code" / "extra.py").write_bytes(b"evil")
    (release / "config").chmod(0o755)
    (release / "config" / "mode").unlink()
    (release / "code" / "main.py").chmod(0o4777)
    assert drift(running) == [
        "mode code", "extra code/extra.py", "mode code/main.py", "mode config",
        "missing config/mode", "content config/version",
    ]  # fmt: skip
    old = release.stat().st_ino
    assert repair(running, with_source=True) == "repaired"
    assert drift(running) == []
    assert release_of(running) == release
    assert release.stat().st_ino != old, "never in place"
    assert running.ask() == "1.0"
    assert [p.name for p in release.parent.iterdir()] == [release.name]
    assert stat.S_IMODE((release / "code" / "main.py").stat().st_mode) == 0o555


def test_what_the_store_and_the_folder_still_have_needs_no_source(running: SimInstaller) -> None:
    release = release_of(running)
    (release / "config").chmod(0o755)
    (release / "config" / "mode").unlink()
    for path in (p for p in running.paths.blobs.rglob("*") if p.is_file()):
        if path.stat().st_size > 100:
            path.unlink()  # the store has lost the server, which the folder still has
    assert repair(running) == "repaired"
    assert (drift(running), running.ask()) == ([], "1.0")


def test_a_source_cannot_bring_other_bytes(running: SimInstaller) -> None:
    change(release_of(running) / "config" / "version", b"9.9")
    for path in (p for p in running.paths.blobs.rglob("*") if p.is_file()):
        change(path, b"9.9")

    class Liar:
        def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
            return iter([b"6.6"[:limit]])

    with pytest.raises(EmbrasureError):
        running.acceptor.repair(running.app, Liar(), Told())
    assert "content config/version" in drift(running)
    assert running.ask() == "9.9", "what was damaged is served on, and told as drift"


def test_another_link_or_none_is_put_right(running: SimInstaller) -> None:
    current = running.paths.current(running.app)
    wanted = current.readlink()
    current.unlink()
    assert drift(running) == ["missing current"]
    assert repair(running) == "none whole", "a look at what is wrong puts the link back by itself"
    assert current.readlink() == wanted


def test_a_destroyed_release_whose_predecessor_runs_comes_back(running: SimInstaller) -> None:
    running.publish("2.0")
    assert running.poll() == "committed"
    change(release_of(running) / "config" / "version", b"2.0 and more")
    running.restart()
    assert running.ask() == "1.0"
    assert repair(running, with_source=True) == "repaired"
    assert running.ask() == "2.0"
    running.restart()
    assert running.ask() == "2.0"


def test_what_runs_is_not_taken_back_while_it_is_repaired(
    running: SimInstaller, caplog: pytest.LogCaptureFixture
) -> None:
    """The release before it may be the one with the hole; it ran for the time of the repair."""
    running.publish("2.0")
    assert running.poll() == "committed"
    wanted = running.paths.current(running.app).readlink()
    change(release_of(running) / "config" / "version", b"2.0 and more")
    assert repair(running, with_source=True) == "repaired"
    assert "runs instead" not in caplog.text
    assert running.paths.current(running.app).readlink() == wanted
    assert running.ask() == "2.0"


def test_without_a_source_what_is_lost_everywhere_is_named(running: SimInstaller) -> None:
    change(release_of(running) / "config" / "version", b"9.9")
    for path in (p for p in running.paths.blobs.rglob("*") if p.is_file()):
        path.unlink()
    with pytest.raises(EmbrasureError, match="config/version"):
        repair(running)
    assert running.ask() == "9.9"


@pytest.mark.misuse
def test_a_denied_release_and_one_of_other_data_are_not_started_anew(
    running: SimInstaller, ablation: Ablation
) -> None:
    assert running.release is not None
    change(release_of(running) / "config" / "version", b"9.9")
    running.repo.revoke(manifests=[running.release.digest])
    running.repo.publish()
    running.poll()
    with pytest.raises(Denied, match="not denied"):
        repair(running, with_source=True)
    running.publish("2.0", release=running.make("2.0", "bad", change=migrating(
        one_way=True, migrate="")))  # fmt: skip
    assert running.poll() == "degraded probe"
    with pytest.raises(Denied):
        repair(running, with_source=True)
    with ablation("the look at denials and at whose data it is") as attack:
        attack.without("node.repair._check_may_run", lambda *_: None)
        assert repair(running, with_source=True) == "repaired"
        attack.succeeded(running.ask() == "1.0")


@pytest.mark.misuse
def test_a_release_that_the_policy_denies_is_not_started_anew(
    running: SimInstaller, ablation: Ablation
) -> None:
    change(release_of(running) / "config" / "version", b"9.9")
    policy_says(denies_old)(running)
    with pytest.raises(Denied, match="not denied"):
        repair(running, with_source=True)
    with ablation("the look at the policy") as attack:
        attack.without("node.repair.is_denied", lambda *_: False)
        attack.succeeded(repair(running, with_source=True) == "repaired" and running.ask() == "1.0")


def test_a_node_that_was_left_degraded_by_a_disk_is_well_after_a_repair(
    running: SimInstaller,
) -> None:
    change(release_of(running) / "config" / "version", b"1.0 and more")
    running.restart()  # nothing here is whole
    assert state_of(running) is State.DEGRADED
    assert repair(running, with_source=True) == "repaired"
    assert (state_of(running), running.ask()) == (State.IDLE, "1.0")


def state_of(bench: SimInstaller) -> State | None:
    record = bench.acceptor._ground.journal.read(bench.app).record
    return None if record is None else record.state


def test_the_way_back_and_a_pin_are_looked_at_and_repaired_without_a_restart(
    running: SimInstaller,
) -> None:
    """What would run after a roll-back is known to be good before it is needed."""
    first = release_of(running)
    for version in ("2.0", "3.0"):
        if version == "3.0":
            pins.put(running.paths, running.app, first.name)
        running.publish(version)
        assert running.poll() == "committed"
    (back,) = (one for one in first.parent.iterdir() if one not in (first, release_of(running)))
    whole = verify.verify_kept(running.paths)
    assert [(one.release, one.version, one.drift) for one in whole] == [
        (first.name, "1.0", ()), (back.name, "2.0", ()),
    ]  # fmt: skip
    for release in (first, back):
        change(release / "config" / "version", b"6.6")
    assert drift(running) == []
    found = verify.verify_kept(running.paths)
    assert [[d.path for d in one.drift] for one in found] == [["config/version"]] * 2
    assert "(kept): 1 differ" in verified_text(found)
    before = running.supervisor.running(running.app)
    assert repair(running, with_source=True) == f"repaired {first.name}, {back.name}"
    assert running.supervisor.running(running.app) == before
    assert all(not one.drift for one in verify.verify_kept(running.paths))
    assert repair(running) == "none whole"


def test_a_pinned_release_that_nothing_tells_of_is_named(running: SimInstaller) -> None:
    first = release_of(running)
    pins.put(running.paths, running.app, first.name)
    for version in ("2.0", "3.0"):
        running.publish(version)
        assert running.poll() == "committed"
    change(first / "plan.json", b"{}")
    (found, _) = verify.verify_kept(running.paths)
    assert [one.what for one in found.drift] == ["content"]
    with pytest.raises(NotFound) as caught:
        repair(running, with_source=True)
    assert "unpin" in caught.value.hint
