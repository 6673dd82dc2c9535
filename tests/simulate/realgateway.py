"""The product's gateway engine as a process of its own, for nodes that are the product's, too."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Sequence

from sqlalchemy import insert

from gateway import tables
from tests.simulate.engine import SimEngine
from tests.simulate.engine import SimFleet as Served
from tests.simulate.engine_child import write_config
from tests.simulate.fleet import RealNode, SimFleet
from tests.simulate.releases import SimRelease


class RealGateway:
    """One gateway; `approve` a release, then `start` the process that rolls it out."""

    def __init__(self, fleet: SimFleet, node: RealNode, address: str) -> None:
        """It dials `node` at `address`."""
        self.folder = fleet.folder / "gateway"
        self.folder.mkdir()
        self._served = Served(fleet.repository, fleet.authority, {})
        self._node, self._address = node, address
        self._config = fleet.folder / "gateway.json"
        self.log = (fleet.folder / "gateway.log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None

    def approve(self, release: SimRelease, *, soak_s: int = 0) -> None:
        """The next process starts the roll-out of this release."""
        asyncio.run(self._approve(release, soak_s))

    async def _approve(self, release: SimRelease, soak_s: int) -> None:
        host = SimEngine(self.folder, self._served)
        try:
            with host.gateway.database.write() as connection:
                connection.execute(
                    insert(tables.addresses).prefix_with("OR REPLACE").values(
                        kind="node", name=self._node.id, env=self._served.sim.env,
                        address=self._address,
                    )
                )  # fmt: skip
            plan = host.approved(
                "", percents=(100,), release=release, supersede=True, soak_s=soak_s
            )
            write_config(self._config, self.folder, self._served, host, plan)
        finally:
            host.gateway.close()

    def start(self, inside: Sequence[str] = ()) -> None:
        """The process runs. inside: what it is started by."""
        self.process = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.simulate.engine_child", str(self._config)],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def end(self) -> None:
        """Nothing of it runs."""
        self.kill()
        self.log.close()

    def _one(self, query: str) -> str:
        file = self.folder / "state" / "gateway.sqlite"
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
            row = connection.execute(query).fetchone()
        return str(row[0]) if row else ""

    def rollout(self) -> str:
        """Return the state of the newest roll-out."""
        return self._one("SELECT state FROM rollouts ORDER BY seq DESC LIMIT 1")

    def member(self) -> str:
        """Return where the node stands in it."""
        return self._one(
            "SELECT m.state FROM rollout_nodes m JOIN rollouts r ON m.rollout = r.id"
            " ORDER BY r.seq DESC LIMIT 1"
        )

    def journal(self) -> str:
        """Return the audit journal."""
        return (self.folder / "state" / "audit.jsonl").read_text()
