"""Production as real processes: apply is root without a network, fetch and the app other users."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from embrasure.bundle.manifest import ExecProbe, FileAgeProbe, Hook, TcpProbe
from embrasure.trust.documents import digest
from embrasure.trust.receipt import parse_receipt
from node import processes
from node.ipc import SOCKET, to_apply
from node.metrics import certificate_end
from node.receipts import Outbox
from tests.ablation import Ablation
from tests.integration.test_node_units import unit
from tests.integration.test_renewal import serial_at
from tests.simulate.fleet import SimFleet
from tests.simulate.hooks import kinds, missing
from tests.simulate.installer import free_port
from tests.simulate.production import FETCH, SHOP, STRANGER, in_production, passable
from tests.simulate.renewing import renewing
from tests.simulate.running import Running, answers, libraries, status, until
from tests.simulate.strangers import CONNECT, as_user, facts, pids_of, rights, words_of

pytestmark = pytest.mark.skipif(not kinds(), reason=missing())
CAPABILITIES = (1 << 0) | (1 << 6) | (1 << 7)
OPEN = """
import sys
for path in sys.argv[1:]:
    try: print("read", len(open(path, "rb").read()))
    except OSError as problem: print(problem.strerror)
"""


@pytest.fixture
def fleet() -> Iterator[SimFleet]:
    with passable() as top:
        yield SimFleet(top)


@pytest.mark.misuse
def test_a_production_node_is_three_users_and_an_install_goes_through(
    fleet: SimFleet, ablation: Ablation
) -> None:
    port = free_port()
    node = in_production(fleet, "node", port=port)
    paths = node.paths
    plan, gate = fleet.publish(node, "1")
    with unit(node, "apply") as apply, unit(node, "fetch") as fetch:
        asyncio.run(fleet.gateway(node).order(fleet.order(node, plan, gate)))
        assert until(lambda: answers(port), what="the app")

        # Who they are.
        root = facts(apply.pid)
        assert root["Uid"].split()[1] == "0" and int(root["CapBnd"], 16) == CAPABILITIES
        assert int(root["CapEff"], 16) == CAPABILITIES and root["Seccomp"].strip() == "2"
        threads = rights(apply.pid)
        assert {held for held, _ in threads} == {(f"{CAPABILITIES:016x}",) * 3}
        assert [kind for _, kind in threads].count("0") == 1, "the thread that starts apps"
        assert "cygrpc" not in libraries(apply.pid) and "cygrpc" in libraries(fetch.pid)
        net = facts(fetch.pid)
        assert set(net["Uid"].split()) == {str(FETCH.uid)} and not net["Groups"].strip()
        assert int(net["CapEff"], 16) == int(net["CapPrm"], 16) == 0 and net["NoNewPrivs"] == "1"
        (app,) = [pid for pid in pids_of(SHOP.uid) if b"main.py" in words_of(pid)]
        assert facts(app)["PPid"] == str(apply.pid)
        assert int(facts(app)["CapEff"], 16) == 0 and facts(app)["NoNewPrivs"] == "1"
        said = status(node)["isolation"]
        assert isinstance(said, dict) and (said["sandbox"], said["level"]) == ("bubblewrap", 1)
        receipts = Outbox(paths).of_plan("shop", digest(plan))
        assert {parse_receipt(one.signed, node.receipt_key).isolation for one in receipts} == {1}

        # What fetch's user, the app's and a stranger read.
        private = [paths.receipt_key, paths.seal_key, paths.floors / "a", paths.app_toml("shop"),
                   *paths.outbox.iterdir(), *paths.journal.iterdir()]  # fmt: skip
        for user in (FETCH, SHOP, STRANGER):
            assert "read" not in as_user(user.uid, OPEN, *private)
        assert "read" in as_user(FETCH.uid, OPEN, paths.tls_key)
        assert "read" not in as_user(SHOP.uid, OPEN, paths.tls_key)
        code = paths.current("shop") / "manifest.json"
        assert "read" in as_user(SHOP.uid, OPEN, code)
        assert "read" not in as_user(STRANGER.uid, OPEN, code)

        # Who may speak with apply.
        sock = paths.run / SOCKET
        assert "answered" in as_user(FETCH.uid, CONNECT, sock)
        for user in (SHOP, STRANGER):
            assert "Permission denied" in as_user(user.uid, CONNECT, sock)
        sock.chmod(0o666)
        assert "answered" not in as_user(STRANGER.uid, CONNECT, sock), "the kernel says who it is"
        with ablation("the users") as attack:
            # One user for all, as in development: it reads every key, and is believed.
            attack.succeeded("Permission" not in as_user(0, OPEN, *private))
            to_apply(paths).close()
        fetch.end()
        assert answers(port), "the app does not need fetch"
        apply.end()
    # Other tests use these users at the same time: these very processes are gone.
    assert not any(Path(f"/proc/{pid}").exists() for pid in (app, fetch.pid, apply.pid))


@pytest.mark.long
def test_a_hook_and_a_probe_run_as_the_app_in_a_room(fleet: SimFleet) -> None:
    port = free_port()
    node = in_production(fleet, "node", port=port)
    shared = node.paths.shared("shop")
    told = (
        f"id -u > {shared}/who; cat /proc/self/status | grep -c 'Seccomp:.2' > {shared}/filter; "
        f"ls {node.paths.keys} > {shared}/keys 2>&1; true"
    )
    hook = Hook(point="prepare", argv=("sh", "-c", told), timeout_s=20)
    probe = ExecProbe(
        argv=("sh", "-c", f"test -s {shared}/who && ! touch {shared}/x"), interval_ms=50,
        timeout_ms=5000, start_s=20, passes=1,
    )  # fmt: skip
    beat = FileAgeProbe(path="beat", max_age_s=60, interval_ms=50, timeout_ms=5000, start_s=20,
                        passes=1)  # fmt: skip
    tcp = TcpProbe(port="web", interval_ms=50, timeout_ms=5000, start_s=20, passes=2)
    line = 'touch "$EMBRASURE_SHARED/beat"; exec python3 code/main.py'
    app = node.paths.app_toml("shop")
    app.write_text(app.read_text().replace("{ python3", '{ sh = "/bin/sh", python3'))
    plan, gate = fleet.publish(
        node, "1",
        change=lambda one: msgspec.structs.replace(
            one, hooks=(hook,), probes=(*one.probes, probe, beat, tcp),
            run=msgspec.structs.replace(one.run, argv=("sh", "-c", line)),
        ),
    )  # fmt: skip
    with unit(node, "apply"), unit(node, "fetch"):
        asyncio.run(fleet.gateway(node).order(fleet.order(node, plan, gate)))
        assert until(lambda: answers(port), what="the app")
        assert (shared / "who").read_text().strip() == str(SHOP.uid)
        assert (shared / "filter").read_text().strip() == "1"
        assert "No such file" in (shared / "keys").read_text()
        assert not (shared / "x").exists()
        assert status(node)["apps"][0]["state"] == "idle"  # type: ignore[index]  # read as JSON


@pytest.mark.long
def test_a_node_starts_its_two_users_itself(fleet: SimFleet) -> None:
    port = free_port()
    node = in_production(fleet, "node", mode="push", port=port)
    running = Running(node)
    try:
        until((node.paths.run / "net" / "ports.json").exists, what="fetch")
        assert len(pids_of(FETCH.uid)) == 1
    finally:
        running.end()
    assert not pids_of(FETCH.uid)


@pytest.mark.long
def test_a_certificate_is_renewed_by_fetch_alone(fleet: SimFleet) -> None:
    node = in_production(fleet, "node", port=free_port(), aged=timedelta(days=3))
    with unit(node, "apply"), unit(node, "fetch"):
        before = serial_at(node.port)
        folder = fleet.folder / "gateway"
        with renewing(folder, fleet.repository, fleet.authority) as renewals:
            renewals.address("node", node.id, node.port)
            asyncio.run(renewals.renewals.look())
            held = renewals.held("node", node.id)
            assert held.problem == "" and held.serial != before
            assert serial_at(node.port) == held.serial
        found = node.paths.renewed.stat()
        assert (found.st_uid, found.st_mode & 0o777) == (FETCH.uid, 0o600)
        # What fetch can write is not opened by apply's user, whatever fetch lets it.
        good = node.paths.renewed.read_bytes()
        end = certificate_end(node.paths)
        node.paths.tls.chmod(0o755)
        node.paths.renewed.chmod(0o644)
        assert certificate_end(node.paths) == end
        node.paths.renewed.unlink()
        assert certificate_end(node.paths) == end, "of the first certificate alone"
        node.paths.tls.chmod(0o700)
        node.paths.renewed.write_bytes(good)
        os.chown(node.paths.renewed, FETCH.uid, FETCH.gid)
        node.paths.renewed.chmod(0o600)
    with unit(node, "apply"), unit(node, "fetch"):
        assert serial_at(node.port) == held.serial
    # Half a file keeps nobody out of reach.
    node.paths.renewed.write_bytes(good[:300])
    with unit(node, "apply"), unit(node, "fetch"):
        assert serial_at(node.port) == before


@pytest.mark.long
@pytest.mark.misuse
def test_what_a_killed_apply_left_of_an_app_is_gone_and_nothing_else(
    fleet: SimFleet, ablation: Ablation
) -> None:
    port = free_port()
    node = in_production(fleet, "node", port=port)
    app = node.paths.app_toml("shop")
    app.write_text(app.read_text().replace("{ python3", '{ sh = "/bin/sh", python3'))
    line = "(trap '' TERM; exec setsid sleep 611) & exec python3 code/main.py"
    plan, gate = fleet.publish(
        node, "1",
        change=lambda one: msgspec.structs.replace(
            one, run=msgspec.structs.replace(one.run, argv=("sh", "-c", line))
        ),
    )  # fmt: skip

    def sleepers() -> list[int]:
        return [pid for pid in pids_of(SHOP.uid) if b"611" in words_of(pid)]

    # Of another user: nothing of it is touched. (All that is the app's user ends with the app.)
    words = ["setpriv", f"--reuid={STRANGER.uid}", f"--regid={STRANGER.gid}", "--clear-groups"]
    other = subprocess.Popen([*words, "sleep", "612"])
    try:
        with suppress(AssertionError), unit(node, "apply") as apply:
            with unit(node, "fetch"):
                asyncio.run(fleet.gateway(node).order(fleet.order(node, plan, gate)))
                assert until(lambda: answers(port), what="the app")
            (left,) = sleepers()
            (first,) = [pid for pid in pids_of(SHOP.uid) if b"main.py" in words_of(pid)]
            os.kill(apply.pid, signal.SIGKILL)
        time.sleep(0.5)
        old = processes.of(SHOP)
        # The kernel ends nothing of it: no thread of apply could signal another user.
        assert {left, first} <= old, "it outlived apply"
        with ablation("the end of its user at the next start") as attack:
            # Nobody looks after it, it holds the port, and would answer in a new release's place.
            attack.succeeded(until(lambda: answers(port), what="an answer of the old app"))
        with unit(node, "apply"):
            assert until(lambda: answers(port), what="the app")
            assert not old & processes.of(SHOP) and len(sleepers()) == 1
            assert other.poll() is None
            os.kill(sleepers()[0], signal.SIGKILL)  # else apply waits for it as long as for any app
        assert not processes.of(SHOP)
    finally:
        other.kill()
        other.wait()
