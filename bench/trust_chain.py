"""What a node pays to believe: a whole chain cold, and polls, against the budget and a peer.

One fleet: root 3 of 5, 50 apps at 3 of 5, 10,000 nodes in 64 directory shards. The peer is stock
python-tuf (`ngclient`) over the same contents in a flat layout: one `targets` role lists all.
Both read from memory, so neither pays for a network. Run: python -m bench.trust_chain [--quick]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cost import Cost, spent, typical
from bench.flat import FlatPeer
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.directory import shard_of
from embrasure.trust.load import Docs, load, roles_for
from tests.simulate.nodes import SimNode, fixed_node_id
from tests.simulate.repository import SimRepository
from tests.simulate.sources import MemorySource

APP, OTHER = "app-00", "app-01"
_APART = ("/dir/", ".plan.json", ".m-", "targets/gates/")
OPERATORS = ("anna", "bea", "carl", "dora", "emil")


@dataclass(frozen=True, slots=True)
class Size:
    """How large the fleet is."""

    apps: int = 50
    nodes: int = 10_000
    shards: int = 64
    samples: int = 9
    polls: int = 50


QUICK = Size(apps=5, nodes=200, shards=16, samples=5, polls=10)


class Counting(MemorySource):
    """A source that counts what it gives; a missing file is a request without bytes."""

    def cost(self, since: int, cpu: float, *, apart: Sequence[str] = ()) -> Cost:
        """Return the cost of everything after the first `since` requests, `apart` not counted."""
        asked = [p for p in self.asked[since:] if not any(part in p for part in apart)]
        return Cost(len(asked), sum(len(self.files.get(path, b"")) for path in asked), cpu)


class Bench:
    """The fleet, and a node of it."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.repo = SimRepository(holders=5, threshold=3)
        self.me = self.repo.add_node(labels={"app": "x"})
        self.repo.set_policy(shards=size.shards)
        for number in range(size.apps):
            app = f"app-{number:02}"
            self.repo.add_app(app, operators=OPERATORS, threshold=3)
            self.release(app, "1.0")
        for number in range(1, size.nodes):
            name = fixed_node_id(number)
            self.repo.nodes[name] = SimNode(id=name, labels={"app": "x"})
        self.repo.refresh_directory()
        self.repo.publish()

    def release(self, app: str, version: str) -> None:
        """The next publish has a new plan of `app` with its canary gate open."""
        made = self.repo.add_release(
            app, {"code/main": f"{app} {version}".encode()}, version=version
        )
        plan = self.repo.set_plan(made, canary=[self.me])
        self.repo.set_gate(plan, open_wave=0)

    def look(self, client: TrustClient, source: Counting) -> Docs:
        """Return what a node verifies before it decides about its app."""
        view = client.refresh(source, roles=roles_for(self.repo.env, APP))
        docs = load(client, view, source, env=self.repo.env, app=APP, node=self.me.id)
        if docs.problems or docs.entry is None or docs.gate is None or docs.manifest is None:
            raise SystemExit(f"the bench's own fleet does not verify: {docs.problems}")
        return docs

    def cold(self) -> dict[str, Cost]:
        """Return what a node without any metadata pays until it can decide about its app.

        cold: requests and bytes as the budget counts them, without its own shard and without the
        documents of a roll-out (plan, manifest, gate); whole: with them. The CPU is of all.
        """
        found = [self._cold() for _ in range(self.size.samples + 1)][1:]
        return {"cold": typical([one for one, _ in found]), "whole": typical([w for _, w in found])}

    def _cold(self) -> tuple[Cost, Cost]:
        source = Counting(self.repo.files)
        with tempfile.TemporaryDirectory() as folder:
            client = TrustClient(Path(folder), self.repo.anchor)
            cpu = spent(lambda: self.look(client, source))
        return source.cost(0, cpu, apart=_APART), source.cost(0, cpu)

    def events(self) -> dict[str, Cost]:
        """Return what a node that polls pays for each event, in the order of the budget."""
        source = Counting(self.repo.files)
        found: dict[str, Cost] = {}
        with tempfile.TemporaryDirectory() as folder:
            client = TrustClient(Path(folder), self.repo.anchor)
            self.look(client, source)

            def after(name: str, change: Callable[[], object], *apart: str) -> None:
                change()
                self.repo.publish()
                since = len(source.asked)
                cpu = spent(lambda: self.look(client, source))
                found[name] = source.cost(since, cpu, apart=apart)

            idle = []
            for _ in range(self.size.polls):
                since = len(source.asked)
                cpu = spent(lambda: client.refresh(source, roles=roles_for(self.repo.env, APP)))
                idle.append(source.cost(since, cpu))
            found["idle"] = typical(idle)
            after("mine", lambda: self.release(APP, "2.0"), ".m-")
            after("other", lambda: self.release(OTHER, "2.0"))
            role = layout.app_role(self.repo.env, APP)
            plan = self.repo.plans[role]
            after("gate", lambda: self.repo.set_gate(plan, open_wave=0, attempt=2))
            after("directory", self._another_shard)
        return found

    def _another_shard(self) -> None:
        shards = self.size.shards
        mine = shard_of(self.me.id, shards)
        other = next(n for n in self.repo.nodes.values() if shard_of(n.id, shards) != mine)
        other.labels = {"app": "y"}
        self.repo.refresh_directory()


# event -> most requests, bytes, milliseconds of CPU; None: no limit of its own
LIMITS: dict[str, tuple[float | None, ...]] = {
    "cold": (12, 64_000, 50.0),
    "whole": (None, None, 50.0),
    "idle": (2, 500, 2.0),
    "mine": (8, 20_000, None),
    "other": (None, 12_000, None),
    "gate": (None, 20_000, None),
    "directory": (None, 15_000, None),
}


def report(name: str, cost: Cost, most: tuple[float | None, ...] = (None,) * 3) -> list[str]:
    """Print the figures of one event; return what is above its limit."""
    values = (
        ("requests", f"{cost.requests}", "requests", cost.requests),
        ("bytes", f"{cost.bytes}", "B", cost.bytes),
        ("cpu", f"{cost.cpu * 1000:.2f}", "ms", cost.cpu * 1000),
    )
    above = []
    for (what, shown, unit, value), limit in zip(values, most, strict=True):
        print(f"figure: {name}_{what} = {shown} {unit}")
        if limit is not None and value > limit:
            above.append(f"{name}_{what}: {shown} {unit}, at most {limit:g}")
    return above


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 when a figure is above its limit, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small fleet, in seconds")
    given = parser.parse_args(arguments)
    size = QUICK if given.quick else Size()
    bench = Bench(size)
    print(f"figure: fleet = {size.apps} apps, {size.nodes} nodes, {size.shards} shards")
    peers = {
        name: FlatPeer(bench.repo, app=APP, node=bench.me, by_shard=by_shard)
        for name, by_shard in (("flat", False), ("flat_shards", True))
    }
    mine = {**bench.cold(), **bench.events()}
    above = [
        line for name, cost in mine.items() for line in report(f"trust_{name}", cost, LIMITS[name])
    ]
    for name, peer in peers.items():
        theirs = peer.measure(samples=size.samples, polls=size.polls)
        for event, cost in theirs.items():
            report(f"{name}_{event}", cost)
            ours = mine[event]
            print(f"figure: {name}_{event}_bytes_ratio = {cost.bytes / ours.bytes:.1f} x")
            print(f"figure: {name}_{event}_cpu_ratio = {cost.cpu / ours.cpu:.1f} x")
    for line in above:
        print(f"above its limit: {line}", file=sys.stderr)
    return 1 if above else 0


if __name__ == "__main__":
    raise SystemExit(main())
