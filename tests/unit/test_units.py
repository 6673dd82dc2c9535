"""The systemd units of deploy/: how exposed each is, and what one line of it is worth.

`systemd-analyze security --offline` judges a file; systemd need not run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from embrasure.notify import READY, notify
from embrasure.sandbox import CAPABILITIES, HIDDEN
from node.backends import Room
from node.transient import HOOK, Transient
from node.users import User
from tests.ablation import Ablation
from tests.source import TOP

UNITS = TOP / "deploy" / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
LIMIT = 20  # tenths: exposure 2.0
LIMITS = {"embrasure-hook.service": 5}
TOOL = shutil.which("systemd-analyze")
judged = pytest.mark.skipif(TOOL is None, reason="needs systemd-analyze (apt package systemd)")
_EXPOSURE = re.compile(r"Overall exposure level for \S+: ([0-9.]+)")


def exposure(unit: Path, *, limit: int = LIMIT, blind: Path | None = None) -> tuple[float, bool]:
    """Return the exposure of a unit file, and whether it passes the gate.

    blind: a policy of the tool, for which some of what it looks at is as good as well
    """
    policy = [f"--security-policy={blind}"] if blind else []
    done = subprocess.run(
        [
            str(TOOL),
            "security",
            "--offline=true",
            f"--threshold={limit}",
            "--no-pager",
            *policy,
            str(unit),
        ],
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


def blind_to(start: str, folder: Path) -> Path:
    """Return a policy for which what begins so is well, however bad; all else counts as ever."""
    told = subprocess.run(
        [str(TOOL), "security", "--offline=true", "--json=short", "--no-pager",
         str(UNITS / "embrasure-apply.service")],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    names = [one["json_field"] for one in json.loads(told.stdout)]
    policy = {name: {"range": 10_000} for name in names if name.startswith(start)}
    assert policy, names
    path = folder / "policy.json"
    path.write_text(json.dumps(policy))
    return path


@judged
@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_is_hardly_exposed(name: str) -> None:
    limit = LIMITS.get(name, LIMIT)
    score, passes = exposure(UNITS / name, limit=limit)
    print(f"figure: unit_exposure_{name.removesuffix('.service')} = {score} of 10")
    assert passes and score <= limit / 10


@judged
@pytest.mark.misuse
@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_that_keeps_capabilities_fails_the_gate(
    name: str, tmp_path: Path, ablation: Ablation
) -> None:
    weak = without(UNITS / name, "CapabilityBoundingSet=", tmp_path)
    limit = LIMITS.get(name, LIMIT)
    assert not exposure(weak, limit=limit)[1]
    with ablation("the look at capabilities") as attack:
        blind = blind_to("CapabilityBoundingSet_", tmp_path)
        attack.succeeded(exposure(weak, limit=limit, blind=blind)[1])


@judged
@pytest.mark.misuse
def test_apply_with_a_right_over_other_users_processes_fails_the_gate(
    tmp_path: Path, ablation: Ablation
) -> None:
    weak = tmp_path / "embrasure-apply.service"
    text = (UNITS / weak.name).read_text()
    weak.write_text(text.replace("BoundingSet=", "BoundingSet=CAP_KILL "))
    assert exposure(weak) == (2.1, False)
    with ablation("the look at this one right") as attack:
        blind = blind_to("CapabilityBoundingSet_CAP_KILL", tmp_path)
        attack.succeeded(exposure(weak, blind=blind)[1])


@pytest.mark.parametrize("name", ["embrasure-apply.service", "embrasure-recover.service"])
def test_a_unit_gives_what_apply_keeps_and_no_more(name: str) -> None:
    (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", (UNITS / name).read_text(), re.MULTILINE)
    assert line.split() == [f"CAP_{one}" for one in CAPABILITIES]


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


def test_the_hook_that_is_scored_is_the_hook_that_runs() -> None:
    # apply gives systemd-run these very properties (node/transient.py); the file is their copy.
    lines = (UNITS / "embrasure-hook.service").read_text().splitlines()
    assert [line for line in lines if line in HOOK] == list(HOOK)
    room = Room(read=(Path("/opt/x"),), write=(Path("/opt/y"),), user=User(31002, 31002))
    with ExitStack() as held:
        started = Transient("/usr/bin/systemd-run", "/usr/bin/systemctl", sys.executable).start(
            ["/usr/bin/true"], {"EMBRASURE_INSTANCE": "ab" * 16, "X": "1"}, Path("/opt/x"), room,
            held,
        )  # fmt: skip
    assert {f"--property={line}" for line in HOOK} < set(started.argv)
    assert {"--uid=31002", "--gid=31002", "--wait", "--setenv=" + HIDDEN + "X"} < set(started.argv)
    assert not any("X=1" in word for word in started.argv), "a value is in no argument"
    inside = started.argv[started.argv.index("--") + 1 :]
    assert inside[-1] == "/usr/bin/true" and set(started.env) == {
        HIDDEN + "X", HIDDEN + "EMBRASURE_INSTANCE"}  # fmt: skip
    # What systemd itself tells a unit is not shown to the hook.
    shown = subprocess.run(
        [*inside[:-1], "/usr/bin/env"], env={**started.env, "INVOCATION_ID": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sorted(shown.stdout.split()) == ["EMBRASURE_INSTANCE=" + "ab" * 16, "X=1"]


def test_every_user_and_folder_of_a_unit_is_made() -> None:
    users = {line.split()[1] for line in (UNITS / "embrasure.sysusers.conf").read_text().split("\n")
             if line.startswith("u ")}  # fmt: skip
    named = set(re.findall(r"^User=(\S+)", "\n".join(
        (UNITS / name).read_text() for name in SERVICES), re.MULTILINE))  # fmt: skip
    assert named <= users
    folders = {line.split()[1:5] and tuple(line.split()[1:5])
               for line in (UNITS / "embrasure.tmpfiles.conf").read_text().split("\n")
               if line.startswith("d ")}  # fmt: skip
    assert ("/run/embrasure/net", "0755", "embrasure-net", "embrasure-net") in folders


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")
@pytest.mark.misuse
def test_one_source_cannot_take_every_connection(ablation: Ablation) -> None:
    rules = TOP / "deploy" / "nftables" / "embrasure-node.nft"
    code = (
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 7001), backlog=64)\n"
        "held = []\n"
        "for _ in range(16):\n"
        "    way = socket.socket(); way.settimeout(1)\n"
        "    try: way.connect(('127.0.0.1', 7001)); held.append(way)\n"
        "    except OSError: pass\n"
        "print(len(held))"
    )

    def taken(load: str) -> int:
        words = [
            "unshare",
            "--net",
            "sh",
            "-c",
            f'ip link set lo up && {load} exec python3 -c "$0"',
        ]
        done = subprocess.run(
            [*words, code], capture_output=True, text=True, timeout=60, check=True
        )
        return int(done.stdout)

    assert taken(f"nft -f {rules} &&") == 8
    with ablation("the rule") as attack:
        attack.succeeded(taken("") == 16)


@pytest.mark.parametrize("name", ["embrasure-apply.service", "embrasure-fetch.service"])
def test_a_node_is_started_again_for_ever(name: str) -> None:
    # The default of systemd gives up after five starts in ten seconds: a node that is not enrolled
    # yet would never listen.
    assert {"StartLimitIntervalSec=0", "Restart=always"} <= set(
        (UNITS / name).read_text().splitlines()
    )
