"""The conformance executable, driven as the public TUF client conformance suite drives it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Targets
from tuf.ngclient import Updater

from embrasure.clock import now
from embrasure.trust.canonical import sha256_hex
from tests.conformance.server import Served, serving
from tests.simulate.metadata import SimMetadata

CLIENT = Path(__file__).parent / "tuf-client"
ROOT = Path(__file__).parents[2]


class Runner:
    """One client folder and one repository."""

    def __init__(self, repo: SimMetadata, served: Served, folder: Path) -> None:
        self.repo = repo
        self.served = served
        self.metadata = folder / "metadata"
        self.targets = folder / "targets"
        self.metadata.mkdir()
        self.targets.mkdir()
        self.anchor = folder / "initial_root.json"
        self.anchor.write_bytes(repo.anchor)

    def run(self, *arguments: str, fake_time: str | None = None) -> int:
        command = [sys.executable, str(CLIENT), "--metadata-dir", str(self.metadata), *arguments]
        if fake_time is not None:
            command = ["faketime", fake_time, *command]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=50, check=False)
        assert b"Traceback" not in done.stderr
        return done.returncode

    def init(self) -> int:
        return self.run("init", str(self.anchor))

    def refresh(self, fake_time: str | None = None) -> int:
        url = f"{self.served.url}/metadata"
        return self.run("--metadata-url", url, "refresh", fake_time=fake_time)

    def download(self, *names: str) -> int:
        wanted = [part for name in names for part in ("--target-name", name)]
        return self.run(
            "--metadata-url", f"{self.served.url}/metadata",
            *wanted,
            "--target-dir", str(self.targets),
            "--target-base-url", f"{self.served.url}/targets",
            "download",
        )  # fmt: skip

    def trusted(self) -> dict[str, int]:
        return {
            path.name.removesuffix(".json"): Metadata.from_file(str(path)).signed.version
            for path in sorted(self.metadata.glob("*.json"))
        }

    def asked(self) -> list[str]:
        found = [path.removeprefix("metadata/") for path in self.served.asked]
        self.served.asked.clear()
        return found


@pytest.fixture
def repo() -> SimMetadata:
    made = SimMetadata(clock=now, holders=1, threshold=1)
    made.touch("targets")
    made.publish()
    return made


@pytest.fixture
def runner(repo: SimMetadata, tmp_path: Path) -> Iterator[Runner]:
    with serving(repo.files) as served:
        yield Runner(repo, served, tmp_path)


def add_target(repo: SimMetadata, role: str, path: str, data: bytes) -> None:
    repo.list_target(role, path, data)
    folder, _, name = path.rpartition("/")
    prefix = f"targets/{folder}/" if folder else "targets/"
    repo.files[f"{prefix}{sha256_hex(data)}.{name}"] = data


def test_init_asks_nobody_and_refresh_asks_each_file_once(runner: Runner) -> None:
    assert runner.init() == 0
    assert runner.asked() == []
    assert runner.trusted() == {"root": 1}
    assert runner.refresh() == 0
    assert runner.asked() == ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    assert runner.trusted() == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}
    for name, path in (("timestamp", "timestamp"), ("snapshot", "1.snapshot"), ("root", "1.root")):
        served = runner.repo.files[f"metadata/{path}.json"]
        assert (runner.metadata / f"{name}.json").read_bytes() == served


def test_a_broken_or_unsigned_first_root_is_refused_without_a_request(runner: Runner) -> None:
    for member in ("signed", "signatures"):
        root = json.loads(runner.repo.anchor)
        if member == "signed":
            del root["signed"]["version"]
        else:
            root["signatures"][0]["sig"] = "00" * 64
        runner.anchor.write_text(json.dumps(root))
        runner.init()
        assert runner.refresh() == 1
        assert runner.asked() == []


def test_a_rolled_back_timestamp_is_refused_and_the_newer_one_stays(runner: Runner) -> None:
    old = dict(runner.repo.files)
    assert runner.init() == 0
    runner.repo.publish()
    assert runner.refresh() == 0
    runner.served.files = old
    assert runner.refresh() == 1
    assert runner.trusted()["timestamp"] == 2


def test_a_new_timestamp_key_lets_the_version_fall_again(runner: Runner) -> None:
    repo = runner.repo
    repo.versions["timestamp"] = 99
    repo.publish()
    assert runner.init() == 0
    assert runner.refresh() == 0
    assert runner.trusted()["timestamp"] == 100
    repo.replace_keys("timestamp", [CryptoSigner.generate_ed25519()])
    repo.versions["timestamp"] = 0
    repo.publish()
    assert runner.refresh() == 0
    assert runner.trusted()["timestamp"] == 1
    assert runner.trusted()["root"] == 2


def test_a_snapshot_that_is_not_the_one_the_timestamp_names_is_not_trusted(runner: Runner) -> None:
    repo = runner.repo
    repo.files["metadata/2.snapshot.json"] = repo.files["metadata/1.snapshot.json"]
    repo.publish()
    repo.files["metadata/2.snapshot.json"] = repo.files["metadata/1.snapshot.json"]
    assert runner.init() == 0
    assert runner.refresh() == 1
    assert runner.trusted() == {"root": 1, "timestamp": 2}


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
def test_metadata_expires_also_when_it_was_held_before(runner: Runner) -> None:
    assert runner.init() == 0
    assert runner.refresh() == 0
    assert runner.refresh(f"{now() + timedelta(days=3):%Y-%m-%d %H:%M:%S}") == 1
    assert runner.refresh() == 0


@pytest.mark.parametrize("role", ["?", "#", "/delegatedrole", "../delegatedrole", "\u6f22 \u202e"])
def test_a_strange_role_name_is_quoted_in_requests_and_file_names(
    runner: Runner, role: str
) -> None:
    repo = runner.repo
    repo.delegate(role, [CryptoSigner.generate_ed25519()], 1, ["*"])
    repo.publish()
    assert runner.init() == 0
    assert runner.download("nonexistent") == 1
    assert f"1.{quote(role, '')}.json" in runner.asked()
    assert len(runner.trusted()) == 5
    # The floors hold it too: the next run reads them back.
    assert runner.refresh() == 0


def test_a_target_is_downloaded_once_and_again_only_when_it_changed(runner: Runner) -> None:
    repo = runner.repo
    add_target(repo, "targets", "file.txt", b"one")
    repo.publish()
    assert runner.init() == 0
    assert runner.download("file.txt") == 0
    fetched = [path for path in runner.asked() if path.startswith("targets/")]
    assert fetched == [f"targets/{sha256_hex(b'one')}.file.txt"]
    assert runner.download("file.txt") == 0
    assert not [path for path in runner.asked() if path.startswith("targets/")]
    add_target(repo, "targets", "file.txt", b"two")
    repo.publish()
    assert runner.download("file.txt") == 0
    assert [path.read_bytes() for path in runner.targets.iterdir()] == [b"two"]


GRAPHS = [
    # Pre-order, depth first; `roles` each delegate to what follows; the names asked for, in order.
    ({"targets": ["A", "B"], "A": ["C"]}, (), ["A", "C", "B"]),
    ({"targets": ["A", "B"], "A": ["C"]}, ("A",), ["A", "C"]),
    ({"targets": ["A", "B"], "A": ["B"], "B": ["A"]}, (), ["A", "B"]),
    ({"targets": ["A", "B", "C"], "B": ["D"], "C": ["D"]}, ("B",), ["A", "B", "D"]),
]


@pytest.mark.parametrize(("edges", "terminating", "asked"), GRAPHS)
def test_delegations_are_walked_in_order_and_each_once(
    runner: Runner, edges: dict[str, list[str]], terminating: tuple[str, ...], asked: list[str]
) -> None:
    repo = runner.repo
    signers = {
        name: CryptoSigner.generate_ed25519() for children in edges.values() for name in children
    }
    for name in signers:
        repo.roles[name] = Targets()
        repo.sign_with[name] = [signers[name]]
        repo.touch(name)
    for parent, children in edges.items():
        delegated = repo.roles[parent]
        delegated.delegations = Delegations({}, {})
        for child in children:
            role = DelegatedRole(child, [], 1, child in terminating, ["*"])
            delegated.delegations.roles = {**(delegated.delegations.roles or {}), child: role}
            delegated.add_key(signers[child].public_key, child)
    repo.touch("targets")
    repo.publish()
    assert runner.init() == 0
    assert runner.download("nothing") == 1
    found = [path for path in runner.asked() if path.partition(".")[2][:-5] in signers]
    assert found == [f"1.{name}.json" for name in asked]


def test_several_targets_stop_at_the_first_failure(runner: Runner) -> None:
    repo = runner.repo
    for name in ("a", "b", "c"):
        add_target(repo, "targets", name, name.encode())
    repo.publish()
    repo.files[f"targets/{sha256_hex(b'b')}.b"] = b"X"
    assert runner.init() == 0
    assert runner.download("a", "b", "c") == 1
    assert [path.name for path in runner.targets.iterdir()] == ["a"]


def test_redirects_and_encodings_are_refused(runner: Runner) -> None:
    assert runner.init() == 0
    for answer in ((302, {"Location": "/metadata/1.root.json"}), (200, {"Content-Encoding": "br"})):
        runner.served.forced["metadata/timestamp.json"] = answer
        assert runner.refresh() == 1
        assert "1.root.json" not in runner.asked()
    assert runner.trusted() == {"root": 1}
    runner.served.forced.clear()
    assert runner.refresh() == 0


def test_the_root_walks_through_every_version(runner: Runner) -> None:
    repo = runner.repo
    for _ in range(4):
        repo.touch("root")
        repo.publish()
    assert runner.init() == 0
    assert runner.refresh() == 0
    assert runner.trusted()["root"] == 5
    assert runner.asked()[:5] == [f"{number}.root.json" for number in range(2, 7)]


def test_plain_python_tuf_reads_the_same_repository(runner: Runner, tmp_path: Path) -> None:
    repo = runner.repo
    add_target(repo, "targets", "file.txt", b"one")
    repo.publish()
    folder = tmp_path / "stock"
    folder.mkdir()
    updater = Updater(
        str(folder),
        f"{runner.served.url}/metadata/",
        str(tmp_path),
        f"{runner.served.url}/targets/",
        bootstrap=repo.anchor,
    )
    found = updater.get_targetinfo("file.txt")
    assert found is not None
    assert Path(updater.download_target(found)).read_bytes() == b"one"
