"""The CA root of a living fleet is replaced: gateway, mirror, letterbox, push and pull nodes go on.

Every part is a process of its own. One push node sleeps through all of it, longer than its
certificate lives, and comes back by its door.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from demo import releases
from demo.fleet import ENV, PASSPHRASE, DemoNode, Fleet
from embrasure.clock import now
from embrasure.net.certificates import load_der, pem_of
from embrasure.trust.directory import parse_tls_bundle
from node.material import read_enrolled
from node.paths import Paths
from pki import enrol
from pki.folder import TrustFolder
from pki.passphrase import PassphraseSource
from pki.signers import open_signer
from tests.simulate.running import until
from tests.simulate.slowline import SlowLine
from tests.simulate.wholefleet import deployed, port, proposed, team, whole_fleet

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
BIG, SLOW, FAST = 16 * 1024 * 1024, 150_000.0, 1e9
RECHECKED = 8.0  # seconds: until then every running stream was looked at again


def big_shop(fleet: Fleet, version: str) -> Path:
    """Return a bundle whose transfer lasts as long as the line is slow."""
    releases.shop_release(fleet, f"{version}-small")
    source = fleet.folder / "releases" / f"{version}-small"
    settings = source / "config" / "shop.json"
    settings.write_text(settings.read_text().replace(f"{version}-small", version))
    (source / "code" / "data").write_bytes(os.urandom(BIG))
    return releases.build(fleet, source, version)


def report(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """Return name -> row of who believes which `tls.json`, as the gateway tells it."""
    found: dict[str, Any] = fleet.processes.must(
        "fleet", "trust", "--env", ENV, "--json", context=fleet.context("anna")
    ).json()
    return {row["name"]: row for row in found["holders"]}


def told(fleet: Fleet, rows: dict[str, dict[str, Any]], *known: DemoNode) -> Path:
    """Return the report as a file; of `known` a person says that they hold the newest."""
    newest = rows["m1"]["tls"]
    for node in known:
        rows[node.id] = {**rows[node.id], "tls": newest}
    file = fleet.folder / "report.json"
    body = {"schema": "embrasure.fleet.trust/1", "holders": list(rows.values())}
    file.write_text(json.dumps(body))
    return file


def submitted(fleet: Fleet, *holders: str) -> dict[str, dict[str, Any]]:
    """The trust files in force are published, and these hold the newest `tls.json`."""
    before = {name: row["tls"] for name, row in report(fleet).items()}
    fleet.processes.must("trust", "submit", fleet.trust, context=fleet.context("anna"))

    def news() -> dict[str, dict[str, Any]] | None:
        rows = report(fleet)
        good = all(rows[n]["tls"] not in ("", before[n]) for n in holders)
        return rows if good and len({rows[n]["tls"] for n in holders}) == 1 else None

    return until(news, seconds=60, what=f"the newest tls.json at {holders}")


def roots_of(node: DemoNode) -> int:
    """Return how many CA roots the node knows."""
    return len(parse_tls_bundle(Paths(node.prefix).tls_bundle.read_bytes()).ca_root)


def aged(fleet: Fleet, node: DemoNode) -> None:
    """The node's certificate was made nine days ago: it has slept for longer than that lives."""
    paths, trust = Paths(node.prefix), TrustFolder.open(fleet.trust)
    source = PassphraseSource(lambda _: PASSPHRASE.encode(), tries=1)
    key = open_signer(f"keyfile:{fleet.trust}/keys/alice.key", source, purpose="security",
                      root=trust.root_id)  # fmt: skip
    old = enrol.answer(
        trust, enrol.check_statement(paths.statement.read_bytes(), trust), signer=key,
        issuer=trust.issuer("node", source), clock=lambda: now() - timedelta(days=9),
    )  # fmt: skip
    paths.enrolled.write_bytes(old)
    chain = [load_der(text, what="chain") for text in read_enrolled(old).chain]
    paths.tls_chain.write_bytes(b"".join(map(pem_of, chain)))


def member(fleet: Fleet, rollout: str, node: DemoNode) -> dict[str, Any]:
    found = releases.status(fleet, "anna", rollout)
    rows: list[dict[str, Any]] = found["nodes"]  # type: ignore[assignment]  # read from JSON
    return next(row for row in rows if row["node"] == node.id)


def test_the_ca_root_is_replaced_under_running_services(tmp_path: Path) -> None:
    with whole_fleet(tmp_path, push=2) as fleet:
        awake, asleep, pull = fleet.nodes
        run, anna = fleet.processes.must, fleet.context("anna")
        deployed(fleet, "1.0")
        assert asleep.service is not None and fleet.gateway is not None
        asleep.service.stop()
        aged(fleet, asleep)
        line = SlowLine(fleet.wait_node(awake), rate=SLOW)
        try:
            run("fleet", "address", "node", awake.id, f"127.0.0.1:{line.port}", "--env", ENV,
                context=anna)  # fmt: skip
            made = proposed(fleet, "2.0", bundle=big_shop(fleet, "2.0"))
            rollout = releases.start(fleet, "bea", made)
            watch = fleet.processes.start(
                "watch", "rollout", "wait", rollout, "--timeout", "300s", "--context", anna
            )
            until(lambda: line.carried > 300_000, seconds=60, what="the transfer")
            dials = member(fleet, rollout, awake)["dials"]
            # 1. A second root; both stand in tls.json. Who sleeps or only reads is waited for.
            team(fleet, "pki", "ca", "rotate", fleet.trust)
            rows = submitted(fleet, awake.id, "m1", "l1")
            assert roots_of(awake) == 2
            early = fleet.processes.run(
                "pki", "ca", "retire", fleet.trust, "--report", told(fleet, rows),
                *fleet.signing, *fleet.passphrase, "--json",
            )  # fmt: skip
            assert early.code == 3 and "E_NOT_READY" in early.err
            assert asleep.id in early.err
            # 2. The old one goes: a person knows that the sleeper will come by its door.
            until(lambda: roots_of(pull) == 2, seconds=30, what="both roots at the pull node")
            team(fleet, "pki", "ca", "retire", fleet.trust, "--report",
                 str(told(fleet, rows, asleep, pull)))  # fmt: skip
            rows = submitted(fleet, awake.id, "m1", "l1")
            until(lambda: roots_of(pull) == 1, seconds=30, what="one root at the pull node")
            # 3. The running streams were looked at again since, and go on: the same connection.
            carried, began = line.carried, time.monotonic()
            time.sleep(RECHECKED)
            assert line.carried > carried, "the push stream"
            assert watch.process.poll() is None, watch.tail()
            assert member(fleet, rollout, awake)["dials"] == dials
            print(f"figure: stream_over_ca_root = {time.monotonic() - began:.1f} s")
            line.rate = FAST
            until(lambda: releases.version_at(awake.app_port) == "2.0", seconds=60, what="push")
            until(lambda: releases.version_at(pull.app_port) == "2.0", seconds=60, what="pull")
            # 4. A gateway that no root of before certifies: the sleeper knows nothing of it.
            team(fleet, "pki", "issuer", "create", "gateway", fleet.trust)
            rows = submitted(fleet, awake.id, "m1", "l1")
            run("pki", "issuer", "activate", "gateway", fleet.trust, "--report",
                told(fleet, rows, asleep), *fleet.passphrase)  # fmt: skip
            fleet.gateway.stop()
            run("gateway", "init", fleet.folder / "gateway", "--trust", fleet.trust)
            fleet.start_gateway()
            until(lambda: report(fleet)[awake.id]["tls"], seconds=30, what="the new issuer")
            awoken(fleet, asleep)
            assert releases.wait(fleet, "anna", rollout).code == 0
            assert releases.wait_versions(fleet, "2.0") == len(fleet.nodes)
        finally:
            line.close()


def awoken(fleet: Fleet, asleep: DemoNode) -> None:
    """The sleeper runs what it had, is let in by its door, and gets its certificate."""
    run, anna = fleet.processes.must, fleet.context("anna")
    fleet.start_node(asleep)
    address = f"127.0.0.1:{fleet.wait_node(asleep)}"
    run("fleet", "address", "node", asleep.id, address, "--env", ENV, context=anna)
    until(lambda: releases.version_at(asleep.app_port) == "1.0", seconds=30, what="1.0")
    assert roots_of(asleep) == 1
    boot = Paths(asleep.prefix).boot_cert
    door = f"node/{asleep.id}@127.0.0.1:{port(asleep.prefix / 'run' / 'embrasure', 'door')}"
    words = ("trust", "deliver", fleet.trust, "--to", door, "--pin", boot, "--identity")
    # Its door knows the old root alone.
    run("pki", "issue", "operator/anna", fleet.trust, "--out", fleet.folder / "today",
        *fleet.passphrase)  # fmt: skip
    shut = fleet.processes.run(*words, fleet.folder / "today")
    assert shut.code == 5, shut.out + shut.err
    run("pki", "issue", "operator/anna", fleet.trust, "--out", fleet.folder / "courier",
        "--ca-root", "1", *fleet.passphrase)  # fmt: skip
    run(*words, fleet.folder / "courier")
    # The node listens with the newer bundle some seconds after it took the files.
    for _ in range(30):
        recovered = fleet.processes.run("fleet", "recover", asleep.id, "--env", ENV, context=anna)
        if recovered.code == 0:
            break
        time.sleep(1)
    assert recovered.code == 0, recovered.out + recovered.err
