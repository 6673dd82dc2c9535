"""The systemd units of deploy/: how exposed each is, and what one line of it is worth.

`systemd-analyze security --offline` judges a file; systemd need not run.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from embrasure.notify import READY, notify
from tests.ablation import Ablation
from tests.source import TOP

UNITS = TOP / "deploy" / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
LIMIT = 20  # tenths: exposure 2.0
TOOL = shutil.which("systemd-analyze")
judged = pytest.mark.skipif(TOOL is None, reason="needs systemd-analyze (apt package systemd)")
_EXPOSURE = re.compile(r"Overall exposure level for \S+: ([0-9.]+)")


def exposure(unit: Path, *, limit: int = LIMIT) -> tuple[float, bool]:
    """Return the exposure of a unit file, and whether it passes the gate."""
    done = subprocess.run(
        [str(TOOL), "security", "--offline=true", f"--threshold={limit}", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    found = _EXPOSURE.search(done.stdout)
    assert found, done.stderr
    return float(found[1]), done.returncode == 0


def without(unit: Path, line: str, folder: Path) -> Path:
    """Return a copy of the unit that lacks the lines which begin so."""
    kept = [one for one in unit.read_text().splitlines() if not one.startswith(line)]
    copy = folder / unit.name
    copy.write_text("\n".join(kept) + "\n")
    assert copy.read_text() != unit.read_text(), line
    return copy


@judged
@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_is_hardly_exposed(name: str) -> None:
    score, passes = exposure(UNITS / name)
    print(f"figure: unit_exposure_{name.removesuffix('.service')} = {score} of 10")
    assert passes and score <= LIMIT / 10


@judged
@pytest.mark.misuse
@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_that_keeps_capabilities_fails_the_gate(
    name: str, tmp_path: Path, ablation: Ablation
) -> None:
    weak = without(UNITS / name, "CapabilityBoundingSet=", tmp_path)
    assert not exposure(weak)[1]
    with ablation("the threshold of the gate") as attack:
        attack.succeeded(exposure(weak, limit=100)[1])


@judged
@pytest.mark.parametrize(
    "line",
    ["User=", "SystemCallFilter=", "PrivateDevices=", "PrivateUsers=", "RestrictNamespaces=",
     "IPAddressDeny=", "ProtectSystem=", "NoNewPrivileges="],
)  # fmt: skip
def test_each_line_of_hardening_is_worth_something(line: str, tmp_path: Path) -> None:
    whole = UNITS / "embrasure-fetch.service"
    assert exposure(without(whole, line, tmp_path))[0] > exposure(whole)[0]


@pytest.mark.parametrize("name", SERVICES)
def test_no_unit_waits_for_a_network_or_a_server(name: str) -> None:
    keys = {line.partition("=")[0] for line in (UNITS / name).read_text().splitlines()}
    assert not keys & {"After", "Requires", "Wants", "BindsTo", "PartOf", "Environment"}


def test_a_datagram_tells_the_service_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify(READY)
    for address in (str(tmp_path / "n"), f"@embrasure-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address.replace("@", "\0", 1))
            monkeypatch.setenv("NOTIFY_SOCKET", address)
            assert notify(READY)
            assert manager.recv(64) == b"READY=1"
    assert not notify(READY)  # nobody listens any more: the caller goes on
    monkeypatch.setenv("NOTIFY_SOCKET", "relative")
    assert not notify(READY)


@pytest.mark.parametrize("name", ["embrasure-apply.service", "embrasure-fetch.service"])
def test_a_node_is_started_again_for_ever(name: str) -> None:
    # The default of systemd gives up after five starts in ten seconds: a node that is not enrolled
    # yet would never listen.
    assert {"StartLimitIntervalSec=0", "Restart=always"} <= set(
        (UNITS / name).read_text().splitlines()
    )
