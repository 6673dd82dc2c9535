"""The probe kind `systemd`, with a real systemd: a worker of an app as a unit of its owner."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from embrasure import limits
from embrasure.bundle.manifest import Manifest, SystemdProbe
from embrasure.trust.receipt import Outcome, read_record
from tests.simulate.booted import missing_need
from tests.simulate.bootednode import SHARED, BootedNode, booted_node, put
from tests.simulate.push import Said
from tests.simulate.running import answers, until

# CI is root on a Debian machine with systemd and dbus.
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(120),
    pytest.mark.skipif(missing_need() != "", reason=f"needs {missing_need()} to boot systemd"),
]
WORKER = "shop-worker.service"
# Quicker than the example of deploy/, and it runs what the releases here bring.
OWN = f"""
[Service]
ExecStart=
ExecStart=/usr/bin/python3 code/data {SHARED}/worker
RestartSec=200ms
WatchdogSec=1
TimeoutStopSec=5
"""
# Says READY, then that it lives: for ever, or as many times as it is told.
CODE = b"""
import os, socket, sys, time
way = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
way.connect(os.environ["NOTIFY_SOCKET"])
open(sys.argv[1], "w").write(os.getcwd())
way.send(b"READY=1")
left = %d
while True:
    if left: way.send(b"WATCHDOG=1")
    left -= 1 if left > 0 else 0
    time.sleep(0.2)
"""
WELL, HANGS, CRASHES = CODE % -1, CODE % 5, b"raise SystemExit(3)"


@pytest.fixture(scope="module")
def here() -> Iterator[BootedNode]:
    with booted_node() as found:
        put(found.machine, WORKER, f"/etc/systemd/system/{WORKER}")
        own = found.machine.folder / "units" / f"{WORKER}.d"
        own.mkdir()
        (own / "own.conf").write_text(OWN)
        found.machine.must("systemctl", "daemon-reload")
        give(found, WORKER)
        yield found


def give(here: BootedNode, unit: str) -> None:
    """The owner says which unit the app's `worker` is."""
    path = here.node.paths.app_toml("shop")
    lines = [line for line in path.read_text().splitlines() if not line.startswith("units")]
    path.write_text("\n".join([f'units = {{ worker = "{unit}" }}', *lines, ""]))


def probed(made: Manifest) -> Manifest:
    """Return the manifest with a probe of the worker."""
    probe = SystemdProbe(unit="worker", interval_ms=50, timeout_ms=5000, start_s=4, passes=3)
    return msgspec.structs.replace(made, probes=(*made.probes, probe))


def invocation(here: BootedNode) -> str:
    """Return which start of the worker runs now."""
    shown = here.machine.show(WORKER, "ActiveState", "InvocationID", "NRestarts")
    assert (shown["ActiveState"], shown["NRestarts"]) == ("active", "0"), shown
    return shown["InvocationID"]


def folder(here: BootedNode) -> str:
    """Return the release that the worker says it was started in."""
    return here.machine.must("cat", f"{SHARED}/worker")


def test_a_worker_is_started_anew_with_each_release(here: BootedNode) -> None:
    here.install("1", change=probed, extra=WELL)
    first, began = invocation(here), folder(here)
    assert began == str(here.machine.must("readlink", "-f", "/opt/embrasure/shop/current")).strip()
    here.install("2", change=probed, extra=WELL, soak_s=2)
    assert invocation(here) != first and folder(here) != began
    # Whatever apply dies of: no worker of before meets what it starts.
    second = invocation(here)
    here.machine.must("systemctl", "kill", "--signal=KILL", "embrasure-apply")
    until(lambda: not answers(here.port), what="the end of the app")
    here.serves("2")
    until(lambda: here.machine.run("systemctl", "is-active", WORKER).returncode == 0, what="it")
    assert invocation(here) != second
    here.machine.must("systemctl", "stop", "embrasure-apply")
    assert here.machine.show(WORKER, "ActiveState")["ActiveState"] == "inactive"
    here.machine.must("systemctl", "start", "embrasure-apply")
    here.serves("2")


@pytest.mark.parametrize("code", [CRASHES, HANGS], ids=["crashes", "hangs in the soak"])
def test_a_release_whose_worker_is_not_well_goes_back(here: BootedNode, code: bytes) -> None:
    here.install("good", change=probed, extra=WELL)
    before = folder(here)
    said = here.order(*here.publish("bad", change=probed, extra=code, soak_s=8))
    assert Outcome.ROLLED_BACK in outcomes(said), said
    assert answers(here.port) == "good" and folder(here) == before
    assert invocation(here)
    if code == HANGS:
        assert "Watchdog timeout" in here.machine.journal(WORKER)


def test_a_unit_that_is_not_there_is_refused_before_anything_is_touched(here: BootedNode) -> None:
    here.install("kept", change=probed, extra=WELL)
    before = invocation(here)
    give(here, "shop-absent.service")
    try:
        said = here.order(*here.publish("refused", change=probed, extra=WELL))
        assert outcomes(said) == [Outcome.DEFERRED]
        assert "why=no-systemd" in here.machine.journal()
    finally:
        give(here, WORKER)
    assert answers(here.port) == "kept" and invocation(here) == before


def test_a_release_that_names_no_unit_runs_without_it(here: BootedNode) -> None:
    here.install("with", change=probed, extra=WELL)
    here.install("without")
    assert here.machine.show(WORKER, "ActiveState")["ActiveState"] == "inactive"


def outcomes(said: Said) -> list[Outcome]:
    """Return what the node's receipts say, as it told them."""
    return [read_record(raw[: limits.RECEIPT_RECORD_BYTES]).outcome for raw in said.receipts]
