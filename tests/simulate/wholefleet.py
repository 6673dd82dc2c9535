"""A whole fleet of real processes, and what its security team and its operators type.

with whole_fleet(folder) as fleet:      # push nodes, pull node, mirror, letterbox, gateway
    deployed(fleet, "1.0")
    team(fleet, "pki", "online", "rotate", "snapshot", fleet.trust)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo import releases
from demo.fleet import ENV, DemoNode, Fleet, free_ports
from demo.processes import Processes
from demo.releases import Pace, Proposal

APP = "shop"
APPROVERS = ("bea", "carl")


@contextmanager
def whole_fleet(folder: Path, *, push: int = 1) -> Iterator[Fleet]:
    """Yield a fleet that runs; every process of it has ended afterwards."""
    fleet = Fleet(Processes(folder), APP, ports=free_ports())
    try:
        fleet.ceremony(min_soak_s=1)
        team(fleet, "trust", "app", "set", APP, fleet.trust, "--env", ENV,
             "--max-second-percent", "100")  # fmt: skip
        read, post = fleet.start_mirrors()
        fleet.make_nodes(push=push, pull=1, mirror=read, letterbox=post)
        for node in fleet.nodes:
            fleet.start_node(node)
        fleet.start_gateway()
        fleet.make_operators()
        fleet.tell_addresses("anna")
        yield fleet
    finally:
        fleet.processes.stop_all()


def team(fleet: Fleet, *words: str | Path) -> dict[str, object]:
    """Return what a verb of the security team says; two keyholders sign."""
    kdf = ("--kdf", "moderate") if "rotate" in words or "create" in words else ()
    done = fleet.processes.must(*words, *kdf, *fleet.signing, *fleet.passphrase, "--json")
    return done.json()


def proposed(fleet: Fleet, version: str, *, bundle: Path | None = None) -> Proposal:
    """Return a proposal of this version that its operators have approved.

    bundle: what it brings; None: the shop. The first node is the canary, then all.
    """
    bundle = bundle or releases.shop_release(fleet, version)
    plan = releases.plan_file(fleet, version, Pace(soak_s=1, push=1, pull=1))
    text = plan.read_text()
    plan.write_text(text.replace('[[waves]]\nname = "half"\npercent = 50\n', ""))
    made = releases.propose(fleet, "anna", bundle, plan)
    releases.approve_all(fleet, made, APPROVERS)
    return made


def deployed(fleet: Fleet, version: str) -> None:
    """The version is approved and runs on every node."""
    rollout = releases.start(fleet, "bea", proposed(fleet, version))
    done = releases.wait(fleet, "bea", rollout)
    assert done.code == 0, done.out + done.err
    assert releases.wait_versions(fleet, version) == len(fleet.nodes)


def port(folder: Path, name: str) -> int:
    """Return a port of a service that runs in `folder`."""
    found: dict[str, int] = json.loads((folder / "ports.json").read_bytes())
    return found[name]


def doors(fleet: Fleet, *nodes: DemoNode) -> list[str]:
    """Return the doors of mirror, letterbox and these push nodes, as `trust deliver` takes them."""
    found = [
        f"{kind}/{name}@127.0.0.1:{port(fleet.folder / name, 'door')}"
        for kind, name in (("mirror", "m1"), ("letterbox", "l1"))
    ]
    found += [
        f"node/{node.id}@127.0.0.1:{port(node.prefix / 'run' / 'embrasure', 'door')}"
        for node in nodes
    ]
    return found


def delivered(fleet: Fleet, *to: str) -> None:
    """The trust files in force are at these doors."""
    words = [word for target in to for word in ("--to", target)]
    fleet.processes.must(
        "trust", "deliver", fleet.trust, *words, "--identity", fleet.folder / "operators" / "anna"
    )
