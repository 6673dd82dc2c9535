"""The units of deploy/ under a real systemd: the first process of a machine of its own.

That machine shares this host's kernel (`tests/simulate/booted.py`); its systemd, cgroups, mounts,
filters and users are real.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from embrasure.bundle.manifest import ExecProbe, Hook
from embrasure.trust.documents import digest
from embrasure.trust.receipt import parse_receipt
from node.receipts import Outbox
from tests.ablation import Ablation
from tests.simulate.booted import HOME, Machine, machine, missing_need
from tests.simulate.bootednode import SHARED, BootedNode, booted_node
from tests.simulate.hooks import OTHER, USER
from tests.simulate.running import answers, until
from tests.source import TOP

# CI is root on a Debian machine with systemd and dbus.
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(missing_need() != "", reason=f"needs {missing_need()} to boot systemd"),
]
UNITS = TOP / "deploy" / "systemd"
HOOKS = "tests/integration/test_hook_sandbox.py"


@pytest.fixture(scope="module")
def here() -> Iterator[BootedNode]:
    with booted_node() as found:
        yield found


def add_users(found: Machine) -> None:
    """The users of `tests/simulate/hooks.py` have names: systemd starts nothing as another."""
    lines = "".join(f"u hook{user.uid} {user.uid} -\n" for user in (USER, OTHER))
    found.must("sh", "-c", f"printf '%s' '{lines}' > /usr/lib/sysusers.d/hooks.conf")
    found.must("systemd-sysusers")


@pytest.mark.timeout(180)
def test_hostile_hooks_are_held_by_systemd_run() -> None:
    with machine() as found:
        add_users(found)
        done = found.run(
            "sh", "-c", f"cd {HOME}/checkout && exec {HOME}/bin/python -m pytest -q -n 0 "
            f"-p no:cacheprovider -m 'long or not long' -k systemd-run {HOOKS}", seconds=150,
        )  # fmt: skip
    print(*(line for line in done.stdout.splitlines() if line.startswith("figure: hook_room")))
    assert done.returncode == 0, done.stdout[-4000:]
    assert "\n11 passed" in done.stdout and "skipped tests: 0" in done.stdout


# A hook whose argument looks like lines of a unit, while somebody says `systemctl daemon-reload`.
INJECT = """
import subprocess, sys, threading
from pathlib import Path
from node import commands, transient
from node.backends import Room
from node.users import User
if sys.argv[1] == "undescribed":
    transient._DESCRIPTION = "--quiet"
lines = "x\\n[Service]\\nExecStopPost=+/usr/bin/touch /run/owned\\n"
words = ["/bin/sh", "-c", "echo begun; sleep 2; printf %s \\"$1 $2 ${3} $4\\"", "sh", lines,
         "$HOME", "${USER}", "%n \\\\ $$"]
env = {"PATH": "/usr/bin:/bin", "X": lines}
room = Room(read=(Path("/usr/share"),), write=(), user=User(31007, 31007))
reload = threading.Timer(1, subprocess.run, [["systemctl", "daemon-reload"]])
reload.start()
ended = commands.run(words, env=env, cwd=Path("/usr/share"), seconds=20,
                     backend=transient.find(), room=room)
reload.join()
same = ended.output.decode() == f"begun\\n{lines} $HOME ${{USER}} %n \\\\ $$"
print(ended.code, same, Path("/run/owned").exists())
"""


@pytest.mark.misuse
def test_a_hooks_words_are_words_and_no_lines_of_its_unit(ablation: Ablation) -> None:
    with machine() as found:
        add_users(found)
        python = (HOME / "bin" / "python", "-c", INJECT)
        assert found.must(*python, "described").split() == ["0", "True", "False"]
        with ablation("a description of our own") as attack:
            attack.succeeded(found.must(*python, "undescribed").split() == ["0", "True", "True"])


def test_a_release_is_installed_and_its_commands_are_units(here: BootedNode) -> None:
    facts = (
        f"id -un > {SHARED}/who; cat /proc/self/cgroup > {SHARED}/cgroup; "
        f"ls /var/lib/embrasure /etc/embrasure > {SHARED}/seen 2>&1; "
        f"ls /run/embrasure >> {SHARED}/seen"
    )
    hook = Hook(point="prepare", argv=("sh", "-c", facts), timeout_s=20)
    probe = ExecProbe(
        argv=("sh", "-c", f"test -s {SHARED}/who && ! touch {SHARED}/x"), interval_ms=50,
        timeout_ms=5000, start_s=20, passes=1,
    )  # fmt: skip
    plan, gate = here.publish(
        "hooked",
        change=lambda made: msgspec.structs.replace(
            made, hooks=(hook,), probes=(*made.probes, probe)
        ),
    )
    said = here.order(plan, gate)
    assert answers(here.port) == "hooked", said
    look = here.machine.must
    assert look("cat", f"{SHARED}/who").strip() == "app-shop"
    assert "/system.slice/embrasure-hook-" in look("cat", f"{SHARED}/cgroup")
    assert look("cat", f"{SHARED}/seen").count("Permission denied") == 2
    assert "sock" not in look("cat", f"{SHARED}/seen")
    assert "x" not in look("ls", SHARED).split()
    assert "sandbox systemd-run (isolation 2)" in here.ask("node", "status")
    receipts = Outbox(here.node.paths).of_plan("shop", digest(plan))
    assert {parse_receipt(one.signed, here.node.receipt_key).isolation for one in receipts} == {2}
    for unit in ("embrasure-apply", "embrasure-fetch"):
        shown = here.machine.show(unit, "ActiveState", "NRestarts", "Type")
        assert (shown["ActiveState"], shown["NRestarts"], shown["Type"]) == (
            "active", "0", "notify")  # fmt: skip
    assert "embrasure-hook" not in look("systemctl", "list-units", "--all", "--plain")
    # Blobs and releases are on one mount in the unit: what the app cannot write to is there once.
    assert look("stat", "-c", "%h", "/opt/embrasure/shop/current/config/mode").strip() == "2"


def test_fetch_sees_and_reaches_only_what_its_unit_says(here: BootedNode) -> None:
    pid = here.machine.show("embrasure-fetch", "MainPID")["MainPID"]
    inside = ("nsenter", f"--target={pid}", "--mount", "--")
    for path in ("keys", "journal", "outbox", "tuf"):
        shut = here.machine.run(*inside, "ls", f"/var/lib/embrasure/{path}/.")
        assert shut.returncode != 0 or shut.stdout == "", path
    assert here.machine.run(*inside, "touch", "/var/lib/embrasure/x").returncode != 0
    assert here.machine.run(*inside, "ls", "/var/lib/embrasure/tls").stdout
    # Its address filter, with all but this host's loopback refused, and with that refused as well.
    code = (
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    try: socket.create_connection(server.getsockname(), timeout=0.5).close()\n"
        "    except OSError: print('shut')\n"
        "    else: print('open')\n"
    )
    lines = ("IPAddressDeny=any", "IPAddressAllow=localhost")
    assert set(lines) < set((UNITS / "embrasure-fetch.service").read_text().splitlines())
    for shown, said in ((lines, "open"), (lines[:1], "shut")):
        words = [f"--property={line}" for line in shown]
        unit = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect", *words)
        assert here.machine.must(*unit, "/usr/bin/python3", "-c", code).strip() == said


def test_a_killed_apply_comes_back_with_the_app(here: BootedNode) -> None:
    here.install("killed")
    before = here.machine.show("embrasure-apply", "InvocationID", "NRestarts")
    began = time.monotonic()
    here.machine.must("systemctl", "kill", "--signal=KILL", "embrasure-apply")
    until(lambda: not answers(here.port), what="the end of the app")
    here.serves("killed")
    print(f"figure: booted_kill_to_service = {time.monotonic() - began:.1f} s")
    after = here.machine.show("embrasure-apply", "InvocationID", "NRestarts", "ActiveState")
    assert after["InvocationID"] != before["InvocationID"] and after["ActiveState"] == "active"
    assert int(after["NRestarts"]) == int(before["NRestarts"]) + 1
    here.install("after")
    assert answers(here.port) == "after"


@pytest.mark.timeout(120)
def test_an_apply_that_hangs_is_started_again_by_the_watchdog(here: BootedNode) -> None:
    here.install("hung")
    here.drop_in("embrasure-apply", "WatchdogSec=8")
    here.machine.must("systemctl", "restart", "embrasure-apply")
    here.serves("hung")
    before = here.machine.show("embrasure-apply", "InvocationID")
    here.machine.must("systemctl", "kill", "--signal=STOP", "--kill-whom=main", "embrasure-apply")

    def is_new() -> bool:
        return here.machine.show("embrasure-apply", "InvocationID") != before

    until(is_new, seconds=40, what="a new start")
    assert "Watchdog timeout" in here.machine.journal("embrasure-apply")
    here.serves("hung")
    here.drop_in("embrasure-apply")


@pytest.mark.misuse
@pytest.mark.timeout(120)
def test_a_hook_of_a_killed_node_does_not_meet_the_next_one(
    here: BootedNode, ablation: Ablation
) -> None:
    here.install("before")
    line = f"trap '' TERM; touch {SHARED}/hangs; while :; do sleep 0.1; done"
    hook = Hook(point="prepare", argv=("sh", "-c", line), timeout_s=600)
    plan, gate = here.publish(
        "hanging", change=lambda made: msgspec.structs.replace(made, hooks=(hook,))
    )
    ordering = threading.Thread(target=here.order, args=(plan, gate))
    ordering.start()

    def hooks() -> list[str]:
        words = ("list-units", "--plain", "--no-legend", "--state=active", "embrasure-hook-*")
        said = here.machine.must("systemctl", *words)
        return [line.split()[0] for line in said.splitlines()]

    until(
        lambda: here.machine.run("test", "-e", f"{SHARED}/hangs").returncode == 0, what="the hook"
    )
    here.drop_in("embrasure-apply", "Restart=no")
    here.machine.must("systemctl", "kill", "--signal=KILL", "embrasure-apply")
    ordering.join(30)
    (left,) = hooks()
    with ablation("the clearing at each start") as attack:
        # Nothing of systemd ends it with its node.
        attack.succeeded(hooks() == [left])
    here.drop_in("embrasure-apply")
    here.machine.must("systemctl", "start", "embrasure-apply")
    assert not hooks()
    here.serves("before")


@pytest.mark.timeout(120)
def test_a_clean_stop_a_boot_without_a_gateway_and_recovery_by_the_timer(here: BootedNode) -> None:
    here.install("booted")
    found = here.machine
    found.must("systemctl", "stop", "embrasure-fetch", "embrasure-apply")
    for unit in ("embrasure-fetch", "embrasure-apply"):
        shown = found.show(unit, "Result", "ExecMainStatus", "ActiveState")
        assert (shown["Result"], shown["ExecMainStatus"]) == ("success", "0"), shown
    assert not answers(here.port)
    assert not found.run("find", "/proc", "-maxdepth", "1", "-user", "app-shop").stdout
    # What the timer does for an agent that does not run.
    found.must("systemctl", "start", "embrasure-recover.service")
    assert found.show("embrasure-recover.service", "Result")["Result"] == "success"
    found.off()
    began = time.monotonic()
    found.on()
    here.serves("booted")
    print(f"figure: booted_power_to_service = {time.monotonic() - began:.1f} s")
    assert "embrasure" not in found.must("systemctl", "list-units", "--failed", "--plain")


@pytest.mark.timeout(120)
def test_an_install_that_a_dead_agent_left_open_is_undone_by_the_timers_unit(
    here: BootedNode,
) -> None:
    here.install("good")
    plan, gate = here.publish("open", soak_s=600)
    ordering = threading.Thread(target=here.order, args=(plan, gate))
    ordering.start()
    here.serves("open")
    here.drop_in("embrasure-apply", "Restart=no")
    here.machine.must("systemctl", "kill", "--signal=KILL", "embrasure-apply")
    ordering.join(30)
    done = here.machine.run("systemctl", "start", "embrasure-recover.service", seconds=100)
    assert done.returncode == 0, here.machine.journal("embrasure-recover")
    assert "good" in here.machine.must("cat", "/opt/embrasure/shop/current/config/version")
    here.drop_in("embrasure-apply")
    here.machine.must("systemctl", "start", "embrasure-apply")
    here.serves("good")


@pytest.mark.misuse
def test_systemd_obeys_neither_an_app_nor_fetch(here: BootedNode, ablation: Ablation) -> None:
    unit = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "id", "-u")
    stop = ("systemctl", "--no-ask-password", "stop", "embrasure-recover.timer")

    def obeys(user: str, words: tuple[str, ...]) -> bool:
        who = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
        return here.machine.run(*who, *words).returncode == 0

    for user in ("app-shop", "embrasure-net"):
        assert not obeys(user, unit) and not obeys(user, stop)
    with ablation("users of their own") as attack:
        # Root with no capability at all is obeyed: what a thief in apply can do.
        attack.succeeded(
            here.machine.run("setpriv", "--bounding-set=-all", "--inh-caps=-all", *unit).stdout
            == "0\n"
        )
