"""Each way in which an install can end has its own exit code, told by real processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from embrasure.bundle.manifest import Entry, Hook, Manifest, SecretName
from tests.integration.test_node_verbs import Site, codes
from tests.simulate.fleet import APP
from tests.simulate.running import answers, running

pytestmark = pytest.mark.long


@pytest.fixture
def site(tmp_path: Path) -> Site:
    found = Site(tmp_path)
    found.release("1.0")
    assert found.call("apply", found.stick).returncode == 0
    return found


def one_way(manifest: Manifest) -> Manifest:
    """A migration that nothing undoes."""
    hook = Hook(point="migrate", argv=("python3", "-c", "pass"), timeout_s=5)
    return msgspec.structs.replace(manifest, hooks=(hook,), irreversible=True)


def secret(manifest: Manifest) -> Manifest:
    """A secret that nobody sealed."""
    named = SecretName(name="db", min_version=1, mode="0400")
    return msgspec.structs.replace(manifest, secrets=(named,))


def huge(manifest: Manifest) -> Manifest:
    """More than any disk of a test has."""
    more = tuple(
        Entry(path=f"code/z{n:02}", kind="file", mode="0444", length=2**36, sha256=f"{n:064x}",
              target=None)
        for n in range(15)
    )  # fmt: skip
    return msgspec.structs.replace(
        manifest, files=(*manifest.files[:1], *more, *manifest.files[1:])
    )


def lacking(site: Site) -> None:
    """The stick has lost its blobs."""
    shutil.rmtree(site.stick / "blobs")


Change = Callable[[Manifest], Manifest]


@pytest.mark.parametrize(
    ("code", "plain", "said", "mode", "change"),
    [
        (21, 1, "degraded (probe)", "bad", one_way),
        (20, 1, "rolled_back (probe)", "bad", None),
        (30, 1, "rejected (no-space)", "good", huge),
        (60, 1, "rejected (no-secret)", "good", secret),
    ],
)
def test_what_became_of_a_release_is_its_exit_code(
    site: Site, code: int, plain: int, said: str, mode: str, change: Change | None
) -> None:
    site.release("2.0", mode=mode, **({"change": change} if change else {}))
    done = site.call("apply", site.stick)
    assert (done.returncode, done.stdout) == (code, f"{APP}: {said}\n")
    again = site.call("apply", site.stick)
    assert again.returncode in (11, 32)  # quarantined; not again so soon
    boot = site.call("boot", "--plain-exit")
    assert boot.returncode == (plain if code == 21 else 0)


def test_a_stick_without_its_blobs_is_an_unreachable_source(site: Site) -> None:
    site.release("2.0")
    lacking(site)
    assert codes(site, site.stick) == (50, 5)
    # What had come before is resumed; the release arrives with the next stick.
    site.fleet.repository.write(site.stick)
    assert site.call("apply", site.stick).returncode == 0


def test_a_shut_window_is_waiting_and_what_was_staged_needs_no_stick_again(site: Site) -> None:
    site.release("2.0")
    own = site.node.paths.apps / f"{APP}.toml"
    open_for_all = own.read_text()
    start = datetime.now().astimezone() + timedelta(hours=2)
    own.write_text(
        open_for_all
        + f'windows = [{{ start = "{start:%H:%M}", length = "1h", zone = "{zone(start)}" }}]\n'
    )
    assert codes(site, site.stick) == (32, 3)
    status = site.call("status")
    assert f"{APP}: waiting, release 2" in status.stdout
    assert "waits for a window" in status.stdout
    lacking(site)
    own.write_text(open_for_all)
    # A file that was cut off would look the same: its owner has to say that he meant it.
    assert "node mend --forget shop" in (said := site.call("apply", site.stick)).stderr
    assert said.returncode == 2
    assert site.call("mend", "--forget", APP).returncode == 0
    assert site.call("apply", site.stick).returncode == 0
    assert site.call("verify").returncode == 0


def zone(moment: datetime) -> str:
    """Return a zone in which the wall clock shows what `moment` shows."""
    hours = int((moment.utcoffset() or timedelta()).total_seconds() // 3600)
    return "UTC" if hours == 0 else f"Etc/GMT{-hours:+d}"


def test_drift_is_repaired_by_verb(site: Site) -> None:
    def damage() -> None:
        changed = site.node.paths.current(APP).resolve() / "config" / "version"
        changed.chmod(0o644)
        changed.write_bytes(b"9.9")
        changed.chmod(0o444)

    assert site.call("repair", APP).stdout == f"{APP}: none (whole)\n"
    damage()
    for blob in (path for path in site.node.paths.blobs.rglob("*") if path.is_file()):
        blob.unlink()
    assert site.call("verify").returncode == 40
    lost = site.call("repair", APP)
    assert (lost.returncode, "config/version" in lost.stderr) == (50, True)
    done = site.call("repair", APP, "--from", site.stick)
    assert (done.returncode, done.stdout) == (0, f"{APP}: repaired\n")
    assert site.call("verify").returncode == 0
    assert site.call("boot").returncode == 0
    assert site.call("repair", "other").returncode == 10


def test_with_an_agent_the_codes_are_the_same(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.node = site.fleet.make("n2", mode="push", port=site.web)
    site.root = site.node.paths.prefix
    site.release("1.0")
    with running(site.node):
        assert site.call("apply", site.stick).returncode == 0
        assert answers(site.web) == "1.0"
        site.release("2.0", mode="bad")
        assert site.call("apply", site.stick).returncode == 20
        assert site.call("status").returncode == 0
        site.call("hold", APP, "--for", "1h", "--reason", "x")
        site.release("3.0")
        assert site.call("apply", site.stick).returncode == 32
        assert "waiting" in site.call("status").stdout
        site.call("unhold", APP)
        assert site.call("apply", site.stick).returncode == 0
        changed = site.node.paths.current(APP).resolve() / "config" / "version"
        changed.chmod(0o644)
        changed.write_bytes(b"9.9")
        changed.chmod(0o444)
        assert site.call("repair", APP).returncode == 0
        assert answers(site.web) == "3.0"
