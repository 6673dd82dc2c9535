"""A full disk at every write of a verb that makes a folder: told, exit 1, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from embrasure.cli import main
from embrasure.clock import now
from tests.simulate import ceremony
from tests.simulate.apps import make_app

PAGE = os.sysconf("SC_PAGE_SIZE")
SIZE = 4096  # pages of the small disk
Output = pytest.CaptureFixture[str]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, memory only."""
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE * PAGE}", "none", where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trust folder with one environment and a mirror's certificate, never changed."""
    path = tmp_path_factory.mktemp("fleet")
    trust = ceremony.hold(path / "trust", now)
    ceremony.add_environment(trust, "prod", now)
    ceremony.sign_and_merge(trust, "alice", "bob", at=now())
    secret = path / "secret"
    secret.write_bytes(ceremony.PASSPHRASE)
    secret.chmod(0o600)
    issued = ["pki", "issue", "mirror/m1", path / "trust", "--out", path / "tls"]
    assert main([*map(str, issued), "--passphrase-file", str(secret), "--quiet"]) == 0
    make_app(path / "app")
    return path


def leave_room(disk: Path, pages: int) -> None:
    """The disk has exactly `pages` free pages."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    found = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (found.f_bavail - pages) * found.f_frsize)


def outcomes(disk: Path, words: list[str], output: Output, *, step: int = 1) -> int:
    """Return on how many amounts of room the verb failed, each without a trace, until it passed."""
    for failed, pages in enumerate(range(1, SIZE, step)):
        leave_room(disk, pages)
        output.readouterr()
        code = main([*words, "--json"])
        out, error = output.readouterr()
        if code == 0:
            assert json.loads(out)
            return failed
        assert (code, json.loads(error)["reason"]) == (1, "E_NO_SPACE"), error
        assert [found.name for found in disk.iterdir()] == ["filler"], f"{pages} pages free"
    raise AssertionError("never enough room")


def test_a_gateway_on_a_full_disk(disk: Path, fleet: Path, capsys: Output) -> None:
    words = ["gateway", "init", str(disk / "gw"), "--trust", str(fleet / "trust")]
    failed = outcomes(disk, words, capsys)
    assert failed > 10
    print(f"figure: full_disk_gateway_init = {failed} amounts of room")
    # What is there already is never taken away.
    before = {file: file.read_bytes() for file in disk.rglob("gw/**/*") if file.is_file()}
    leave_room(disk, 0)
    assert main(words) == 1
    assert {file: file.read_bytes() for file in before} == before


def test_a_mirror_on_a_full_disk(disk: Path, fleet: Path, capsys: Output) -> None:
    words = [
        "mirror", "init", disk / "m1", "--trust-anchor", fleet / "trust/anchor.json",
        "--name", "m1", "--domain", ceremony.DOMAIN, "--env", "prod", "--tls", fleet / "tls",
        "--gateway-issuer", fleet / "trust/ca/gateway.crt",
    ]  # fmt: skip
    assert outcomes(disk, [str(word) for word in words], capsys) > 3


def test_a_node_on_a_full_disk(disk: Path, fleet: Path, capsys: Output) -> None:
    words = [
        "node", "init", "--root", disk / "node", "--env", "prod", "--mode", "push",
        "--domain", ceremony.DOMAIN, "--anchor", fleet / "trust/anchor.json",
    ]  # fmt: skip
    assert outcomes(disk, [str(word) for word in words], capsys) > 3


def test_a_bundle_on_a_full_disk(disk: Path, fleet: Path, capsys: Output) -> None:
    words = ["release", "build", str(fleet / "app"), "--out", str(disk / "bundle")]
    assert outcomes(disk, words, capsys) > 3


def test_a_root_ceremony_on_a_full_disk(disk: Path, fleet: Path, capsys: Output) -> None:
    words = [
        "pki", "init", disk / "trust", "--domain", "example.org", "--keyholder", "alice",
        "--keyholder", "bob", "--threshold", "1", "--generate", "--kdf", "moderate",
        "--passphrase-file", fleet / "secret",
    ]  # fmt: skip
    assert outcomes(disk, [str(word) for word in words], capsys, step=9) > 2
