"""The README's first deployment by hand, command for command."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.fleet import free_ports
from demo.processes import Processes, Service

TOP = Path(__file__).resolve().parent.parent.parent
PASSPHRASE = ("--passphrase-file", "../passphrase")
SECRET = ("pki init", "trust app", "pki enrol", "pki issue", "gateway run", "release propose",
          "approve")  # fmt: skip


def commands() -> list[str]:
    """Every `embrasure` line of the README's shell blocks, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", (TOP / "README.md").read_text(), re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("embrasure")]


class Hand:
    """Types what the README says; asks nothing, so secrets and digests come as options."""

    def __init__(self, folder: Path) -> None:
        self.processes = Processes(folder)
        self.services: list[Service] = []
        gateway, node, app = free_ports()[:3]
        self.words = {"7443": str(gateway), "7001": str(node), "8001": str(app)}
        self.app_port = app

    def type(self, line: str) -> None:
        for old, new in {**self.words, "$(command -v python3)": sys.executable}.items():
            line = line.replace(old, new)
        words = shlex.split(line)[1:]
        if any(line.startswith(f"embrasure {verb}") for verb in SECRET):
            words += PASSPHRASE
        if line.startswith(("embrasure pki init", "embrasure trust app")):
            words += ["--kdf", "moderate"]
        if line.startswith("embrasure approve"):
            words += ["--confirm-digest", self.words["PLAN"]]
        if line.startswith(("embrasure node run", "embrasure gateway run")):
            folder = self.processes.folder / words[2 if words[0] == "gateway" else 3]
            self._serve(words, folder)
        else:
            self._learn(words[:2], self.processes.must(*words, "--json", timeout=120).out)

    def _serve(self, words: list[str], folder: Path) -> None:
        service = self.processes.start(words[0], *words)
        ports = folder / ("run/embrasure/ports.json" if words[0] == "node" else "ports.json")
        self.processes.wait_file(ports, service, 60)

    def _learn(self, verb: list[str], out: str) -> None:
        """Keep what the README says is printed."""
        if verb == ["node", "init"]:
            self.words["NODE"] = json.loads(out)["node"]
        if verb == ["release", "propose"]:
            said = json.loads(out)
            self.words["ID"], self.words["PLAN"] = said["id"], said["plan"].removeprefix("sha256:")


@pytest.fixture
def hand(tmp_path: Path) -> Iterator[Hand]:
    secret = tmp_path / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text("a passphrase of nothing worth stealing\n")
    (tmp_path / "embrasure").symlink_to(TOP)
    (tmp_path / "first").mkdir()
    typist = Hand(tmp_path / "first")
    yield typist
    typist.processes.stop_all()


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_first_deployment_by_hand_works_as_the_readme_says(hand: Hand) -> None:
    lines = commands()
    assert len(lines) < 15
    for line in lines:
        hand.type(line)
    url = f"http://127.0.0.1:{hand.app_port}/health"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert json.loads(answer.read())["version"] == "1.0"
    # Every server down: the node boots what it has.
    hand.processes.stop_all()
    hand.processes.start("boot", "node", "boot", "--root", "node1", "--foreground")
    end = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert json.loads(answer.read())["version"] == "1.0"
            break
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.1)
