"""Secrets reach the app and nothing else: not the disk, not argv, not a log, not another node."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from embrasure.bundle.manifest import Hook
from embrasure.secret.sealed import Me, open_sealed, parse_sealed
from embrasure.trust.receipt import Outcome, Reason
from node import credentials
from node.paths import Paths
from node.states import State
from node.users import User
from node.verify import verify
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller, Told
from tests.simulate.nodes import SimNode, fixed_node_id
from tests.simulate.production import FETCH, SHOP, STRANGER, passable
from tests.simulate.sealing import Vault, answered, release_with
from tests.source import modules

PLAIN, NEXT = b"hunter2-of-the-database", b"hunter3-of-the-database"


@pytest.fixture
def vault(bench: SimInstaller) -> Vault:
    return Vault(bench.repo)


def publish(
    bench: SimInstaller,
    vault: Vault,
    version: str,
    plain: bytes,
    *,
    mode: str = "good",
    number: int = 1,
    hooks: tuple[Hook, ...] = (),
) -> None:
    """Version `version` with one secret is published."""
    vault.show(vault.seal(plain, bench.node, version=number))
    bench.publish(release=release_with(bench, version, {"db": number}, mode, hooks=hooks))


def holding(folder: Path, *needles: bytes) -> list[Path]:
    """Return every file below `folder` in which a needle is."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if any(needle in path.read_bytes() for needle in needles)]


def test_the_app_finds_its_secrets_where_systemd_would_put_them(
    bench: SimInstaller, vault: Vault
) -> None:
    publish(bench, vault, "1.0", PLAIN)
    assert bench.poll() == "committed"
    found = answered(bench)
    assert found["secrets"] == {"db": PLAIN.decode()}
    assert found["modes"] == {"db": "0o400"}
    folder = Path(str(found["folder"]))
    assert folder.is_relative_to(bench.paths.run)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o500
    # The one place; and it is gone with the app.
    assert holding(bench.paths.prefix, PLAIN) == [folder / "db"]
    bench.close()
    assert holding(bench.paths.prefix, PLAIN) == []
    bench.open()
    # Without any source: the node boots with every server down.
    assert answered(bench)["secrets"] == {"db": PLAIN.decode()}


def test_a_secret_is_in_no_command_line_environment_log_or_receipt(
    bench: SimInstaller, vault: Vault
) -> None:
    publish(bench, vault, "1.0", PLAIN)
    assert bench.poll() == "committed"
    instance = bench.supervisor.running("shop")
    assert instance is not None
    for pid in bench.supervisor.members(instance):
        for name in ("cmdline", "environ"):
            assert PLAIN not in Path(f"/proc/{pid}/{name}").read_bytes()
        limits = Path(f"/proc/{pid}/limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert core.split()[4] == "0"
    told = b"".join(signed + body for signed, body in bench.report.receipts)
    assert PLAIN not in told
    assert holding(bench.paths.logs, PLAIN) == []


@pytest.mark.misuse
def test_a_release_whose_secret_is_not_for_this_node_stops_nothing(
    running: SimInstaller, ablation: Ablation
) -> None:
    vault = Vault(running.repo)
    stranger = SimNode(id=fixed_node_id(7))
    vault.show(vault.seal(PLAIN, stranger))
    running.publish(release=release_with(running, "2.0", {"db": 1}))
    assert running.poll() == "rejected no-secret"
    assert running.ask() == "1.0"
    assert State.PREPARING not in running.report.states
    (receipt,) = [r for r in running.told() if r.reason is Reason.NO_SECRET]
    assert receipt.outcome is Outcome.DEFERRED
    with ablation("the opening of every secret before anything is stopped") as attack:
        attack.without("node.secrets.Secrets.check")
        running.report = Told()
        running.publish(release=release_with(running, "2.1", {"db": 1}))
        running.poll()
        attack.succeeded(State.QUIESCING in running.report.states)


def test_a_secret_that_nobody_listed_or_that_is_no_sealed_file_is_refused(
    running: SimInstaller,
) -> None:
    vault = Vault(running.repo)
    vault.show()
    running.publish(release=release_with(running, "2.0", {"db": 1}))
    assert running.poll() == "rejected no-secret"
    vault.show(b"no sealed file")
    running.publish(release=release_with(running, "2.1", {"db": 1}))
    assert running.poll() == "rejected no-secret"
    one, two = vault.seal(PLAIN, running.node), vault.seal(NEXT, running.node, version=2)
    vault.show(one, two)
    running.publish(release=release_with(running, "2.2", {"db": 1}))
    assert running.poll() == "rejected no-secret"
    assert running.ask() == "1.0"


@pytest.mark.misuse
@pytest.mark.parametrize("what", ["version", "app", "name"])
def test_a_sealed_file_of_another_context_is_not_taken(
    running: SimInstaller, what: str, ablation: Ablation
) -> None:
    vault = Vault(running.repo, app="till" if what == "app" else "shop")
    name = "other" if what == "name" else "db"
    old = vault.seal(PLAIN, running.node, name=name, version=1)
    here = Vault(running.repo)
    here.show(old)
    running.publish(release=release_with(running, "2.0", {"db": 2 if what == "version" else 1}))
    assert running.poll() == "rejected no-secret"
    assert not holding(running.paths.prefix, PLAIN)
    with ablation("what the file must be for this release") as attack:
        # The key fits and the file is listed: only its context says that it is another's.
        key = running.node.seal
        opened = open_sealed(parse_sealed(old), Me(running.node.id, key, 1))
        attack.succeeded(opened == PLAIN)


def test_a_rollback_brings_the_former_secrets_back(bench: SimInstaller, vault: Vault) -> None:
    publish(bench, vault, "1.0", PLAIN)
    assert bench.poll() == "committed"
    publish(bench, vault, "2.0", NEXT, mode="bad", number=2)
    assert bench.poll() == "rolled_back probe"
    assert answered(bench)["secrets"] == {"db": PLAIN.decode()}
    assert holding(bench.paths.prefix, NEXT) == []
    assert len(holding(bench.paths.prefix, PLAIN)) == 1


def test_a_new_release_has_the_new_secret_and_the_old_one_is_gone(
    bench: SimInstaller, vault: Vault
) -> None:
    publish(bench, vault, "1.0", PLAIN)
    assert bench.poll() == "committed"
    publish(bench, vault, "2.0", NEXT, number=2)
    assert bench.poll() == "committed"
    assert answered(bench)["secrets"] == {"db": NEXT.decode()}
    assert holding(bench.paths.prefix, PLAIN) == []


def test_hooks_of_the_release_see_its_secrets(bench: SimInstaller, vault: Vault) -> None:
    hook = Hook(point="prepare", argv=("python3", "code/hook.py"), timeout_s=20)
    publish(bench, vault, "1.0", PLAIN, hooks=(hook,))
    assert bench.poll() == "committed"
    publish(bench, vault, "2.0", b"another beginning", number=2, hooks=(hook,))
    assert bench.poll() == "rolled_back hook"


def test_an_app_that_crashes_finds_its_secrets_when_it_is_started_again(
    bench: SimInstaller, vault: Vault
) -> None:
    publish(bench, vault, "1.0", PLAIN)
    assert bench.poll() == "committed"
    first = bench.supervisor.running("shop")
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        again = bench.supervisor.running("shop")
        if again is not None and again.pid != first.pid:
            break
        time.sleep(0.05)
    assert answered(bench)["secrets"] == {"db": PLAIN.decode()}


def test_the_process_that_talks_to_the_network_has_no_code_that_opens_secrets() -> None:
    callers = {m.path.stem for m in modules("node") if "load_seal_key(" in m.text} - {"identity"}
    assert "secrets" in callers
    names = [f"node.{name}" for name in sorted(callers)]
    code = f"import sys, node.agent, node.push, node.pull; print(set({names}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_what_a_killed_node_left_open_is_gone_before_anything_starts(bench: SimInstaller) -> None:
    credentials.place(bench.paths, "gone", "1-" + "a" * 16, {"db": PLAIN})
    bench.restart()
    assert holding(bench.paths.prefix, PLAIN) == []
    assert not bench.paths.credentials.exists()


def test_it_is_known_whether_the_run_folder_is_memory(bench: SimInstaller, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    run = bench.paths.run.resolve()
    disk = "1 0 8:1 / / rw - ext4 a rw\n"
    lines = {
        "a disk": (disk, False),
        "memory above": (f"{disk}2 1 0:5 / {run.parent} rw - tmpfs t rw\n", True),
        "a namesake": (f"{disk}2 1 0:5 / {run}x rw - tmpfs t rw\n", False),
        "a disk in memory": (
            f"1 0 0:5 / {run.parent} rw - tmpfs t rw\n2 1 8:1 / {run} rw shared:1 - xfs b rw\n",
            False,
        ),
    }
    for name, (text, expected) in lines.items():
        mounts.write_text(text)
        assert credentials.in_memory(bench.paths, str(mounts)) is expected, name


def test_a_place_that_fails_leaves_nothing(bench: SimInstaller) -> None:
    with pytest.raises(Exception, match="255"):
        credentials.place(bench.paths, "shop", "1-x", {"db": PLAIN, "n" * 300: PLAIN})
    assert holding(bench.paths.prefix, PLAIN) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
@pytest.mark.misuse
def test_in_production_a_secret_is_the_apps_user_alone(ablation: Ablation) -> None:
    def reads(user: User, path: Path) -> bool:
        words = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
        return subprocess.run([*words, "cat", str(path)], capture_output=True).stdout == PLAIN

    with passable() as top:
        paths = Paths(top)
        paths.run.mkdir(parents=True)
        for folder in (paths.run.parent, paths.run):
            folder.chmod(0o755)
        credentials.place(paths, "shop", "1-x", {"db": PLAIN}, SHOP)
        path = credentials.folder_of(paths, "shop", "1-x") / "db"
        assert path.stat().st_mode & 0o777 == 0o400
        assert reads(SHOP, path) and not reads(STRANGER, path) and not reads(FETCH, path)
        with ablation("the app's own user") as attack:
            credentials.take_away(paths, "shop")
            credentials.place(paths, "shop", "1-x", {"db": PLAIN}, STRANGER)
            attack.succeeded(reads(STRANGER, path))
        credentials.take_away(paths, "shop")
        assert not path.exists()


def test_a_node_without_its_seal_key_keeps_what_runs(running: SimInstaller) -> None:
    vault = Vault(running.repo)
    vault.show(vault.seal(PLAIN, running.node))
    running.paths.seal_key.unlink()
    shutil.rmtree(running.paths.key_copy)
    running.publish(release=release_with(running, "2.0", {"db": 1}))
    assert running.poll() == "rejected no-secret"
    assert running.ask() == "1.0"
    running.restart()
    assert running.ask() == "1.0"


@pytest.mark.misuse
def test_a_sealed_file_that_was_swapped_on_disk_is_drift(
    bench: SimInstaller, vault: Vault, ablation: Ablation
) -> None:
    publish(bench, vault, "1.0", PLAIN)
    assert bench.poll() == "committed"
    (one,) = verify(bench.paths)
    assert one.drift == ()
    release = next(bench.paths.releases("shop").iterdir())
    release.chmod(0o700)
    file = release / "secret.db.json"
    file.chmod(0o600)
    file.write_bytes(vault.seal(b"of the thief", bench.node))
    file.chmod(0o444)
    release.chmod(0o555)
    (one,) = verify(bench.paths)
    assert [drift.what for drift in one.drift] == ["content"]
    with ablation("the comparison with the approval") as attack:
        attack.without("node.verify._documents", lambda *_: [])
        (one,) = verify(bench.paths)
        attack.succeeded(one.drift == ())


def test_a_rewrapped_file_under_the_same_plan_reaches_a_node_that_had_nothing(
    bench: SimInstaller, vault: Vault
) -> None:
    """A new version of the role with the same plan: trust of the plan stays, recipients change."""
    stranger = SimNode(id=fixed_node_id(7))
    vault.show(vault.seal(PLAIN, stranger))
    bench.publish(release=release_with(bench, "1.0", {"db": 1}))
    assert bench.poll() == "rejected no-secret"
    vault.show(vault.seal(PLAIN, bench.node))
    bench.repo.publish()
    assert bench.poll() == "wait later"
    bench.clock.ahead += timedelta(seconds=70)
    bench.repo.publish()
    assert bench.poll() == "committed"
    assert answered(bench)["secrets"] == {"db": PLAIN.decode()}
