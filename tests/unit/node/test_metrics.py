"""The node's figures as a file: what stands in it, that it is whole, that others may read it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import Misuse
from node import hold
from node.desk import Desk
from node.ipc import SOCKET, Listener, to_apply
from node.metrics import FILE, Metrics, certificate_end, labelled
from node.records import NodeRecords
from node.teller import Teller
from tests.simulate.fleet import SimFleet
from tests.simulate.installer import SimInstaller, free_port


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[SimInstaller]:
    found = SimInstaller(tmp_path)
    yield found
    found.close()


def figures(text: str) -> dict[str, float]:
    """Return every sample as Prometheus itself reads the text."""
    return {
        f"{one.name}{sorted(one.labels.items()) if one.labels else ''}": one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def written(bench: SimInstaller) -> dict[str, float]:
    Metrics(bench.paths, NodeRecords(bench.paths), clock=bench.clock).write()
    return figures((bench.paths.metrics / FILE).read_text())


def test_the_file_says_where_the_node_and_its_apps_stand(bench: SimInstaller) -> None:
    plan = bench.publish("1.0")
    assert bench.poll() == "committed"
    bench.publish("2.0", "bad")
    assert bench.poll().startswith("rolled_back")
    hold.put(bench.paths, bench.app, seconds=60, reason="why")
    hold.put(bench.paths, hold.NODE, seconds=60, reason="why")
    found, app = written(bench), "[('app', 'shop')]"
    assert found[f"embrasure_app_seq{app}"] == plan.seq
    assert found[f"embrasure_app_tries{app}"] == 1
    assert found[f"embrasure_app_held{app}"] == found["embrasure_node_maintenance"] == 1
    assert found["embrasure_app_state[('app', 'shop'), ('state', 'idle')]"] == 1
    assert found["embrasure_node_receipt_number"] == found["embrasure_node_receipts_waiting"] > 0
    assert 0 <= found["embrasure_node_floor_age_seconds"] < 3600
    assert "embrasure_node_certificate_expiry_seconds" not in found  # a pull node has none


def test_another_user_may_read_the_file_and_nothing_else_lies_there(bench: SimInstaller) -> None:
    bench.paths.metrics.mkdir(mode=0o755)
    (bench.paths.metrics / f".{'0' * 32}.new").write_text("half of it, before a power cut")
    written(bench)
    assert [path.name for path in bench.paths.metrics.iterdir()] == [FILE]
    assert stat.S_IMODE((bench.paths.metrics / FILE).stat().st_mode) == 0o644
    assert stat.S_IMODE(bench.paths.metrics.stat().st_mode) == 0o755


def test_a_folder_that_cannot_be_written_stops_nothing_and_is_told_once(
    bench: SimInstaller, caplog: pytest.LogCaptureFixture
) -> None:
    bench.paths.metrics.write_text("a file in the folder's place")
    metrics = Metrics(bench.paths, NodeRecords(bench.paths), clock=bench.clock)
    metrics.write()
    metrics.write()
    assert len(caplog.records) == 1


def test_a_push_node_says_when_its_certificate_ends(tmp_path: Path) -> None:
    fleet = SimFleet(tmp_path)
    paths = fleet.make("n1", port=free_port()).paths
    assert not certificate_end(paths)  # not enrolled in apply's eyes yet
    leaf = fleet.authority.leaf("node", fleet.nodes[0].id)
    paths.tls_chain.write_bytes(leaf.chain_pem)
    end = certificate_end(paths)
    assert 0 < end - now().timestamp() < timedelta(days=30).total_seconds()
    text = Metrics(paths, NodeRecords(paths), clock=now).text()
    assert figures(text)["embrasure_node_certificate_expiry_seconds"] > 0


def test_in_production_fetch_says_until_when_its_renewed_certificate_is_good(
    tmp_path: Path,
) -> None:
    """Apply may not look into fetch's folder: what it can read itself is the certificate before."""
    fleet = SimFleet(tmp_path)
    paths = fleet.make("n1", port=free_port()).paths
    paths.tls_chain.write_bytes(fleet.authority.leaf("node", fleet.nodes[0].id).chain_pem)
    records, name = NodeRecords(paths), "embrasure_node_certificate_expiry_seconds"
    before = figures(Metrics(paths, records, clock=now).text())[name]
    later = int(now().timestamp()) + 40 * 86400

    class Door:
        """Nothing is asked of it."""

    listener = Listener(paths.run, SOCKET)
    desk = Desk(Door(), records, allowed=frozenset({os.geteuid()}))  # type: ignore[arg-type]  # unused
    stop = threading.Event()
    serving = threading.Thread(target=desk.serve, args=(listener, stop))
    serving.start()
    try:
        Teller(lambda: to_apply(paths)).works(later)
        after = figures(Metrics(paths, records, clock=now).text())
        assert before < after[name] and after[name] > 39 * 86400
        assert after["embrasure_node_network_trouble"] == 0
        problem = Misuse("node.toml", expected="a mirror", got="none", reason="no-mirror")
        Teller(lambda: to_apply(paths)).waits(problem)
        assert (
            figures(Metrics(paths, records, clock=now).text())["embrasure_node_network_trouble"]
            == 1
        )
        assert "[E_NO_MIRROR]" in records.state().network
    finally:
        stop.set()
        serving.join()
        listener.close()


def test_the_file_stays_small_with_as_many_apps_as_a_status_tells_of(bench: SimInstaller) -> None:
    for number in range(70):
        bench.allow(f"{'a' * 40}-{number:02}", 1)
    text = Metrics(bench.paths, NodeRecords(bench.paths), clock=bench.clock).text()
    assert text.count("embrasure_app_seq{") == 64
    print(f"figure: node_metrics_file_64_apps = {len(text)} bytes")
    assert len(text) < limits.NODE_METRICS_BYTES


def test_no_mistake_in_a_figure_ends_the_node(
    bench: SimInstaller, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> datetime:
        raise ValueError("a clock of another world")

    metrics = Metrics(bench.paths, NodeRecords(bench.paths), clock=broken)
    metrics.write()
    metrics.write()
    assert len(caplog.records) == 1


def test_a_value_cannot_end_its_label() -> None:
    line = f"embrasure_x{labelled(a=chr(34) + '} 1' + chr(10), b=chr(92))} 5\n"
    (family,) = text_string_to_metric_families(line)
    assert family.samples[0].labels == {"a": '"} 1\n', "b": "\\"}
