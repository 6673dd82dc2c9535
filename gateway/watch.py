"""A running gateway watches what ends: told in its log before, and in its metrics all the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from logging import getLogger
from pathlib import Path

from embrasure import fs, limits
from embrasure.clock import Clock
from embrasure.errors import EmbrasureError
from embrasure.expiry import Item, told
from embrasure.net.certificates import pem_of
from gateway import inventory, metrics
from gateway.certificates import Certificates
from gateway.config import Config
from gateway.database import Database
from gateway.people import People
from gateway.repository import Repository

LOG = getLogger(__name__)
FILE = "metrics.prom"


class Watch:
    """Knows everything that ends in one running gateway.

    counts: what happened how often, for the metrics
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        *,
        certificates: Certificates,
        repository: Repository,
        people: People,
        database: Database,
        clock: Clock,
        counts: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._folder, self._config, self.clock = folder, config, clock
        self._certificates, self._repository, self._people = certificates, repository, people
        self._database, self._counts = database, counts
        self._shown = b""
        self._said: dict[tuple[str, str], float] = {}

    def items(self) -> list[Item]:
        """Return every row; raises Refused when an issuer's file is not what it was."""
        name = self._config.name
        return [
            *inventory.issuers(self._folder, self._config),
            *inventory.leaves(self._certificates.leaves(), self._folder),
            *inventory.listeners(self._database),
            *inventory.roles(self._repository, self._people.policies(), self._folder, name),
        ]

    def due(self) -> list[dict[str, object]]:
        """Return what must be told now, as rows; nothing when it cannot be read."""
        at = self.clock()
        try:
            return [item.as_json(at) for item in told(self.items(), at)]
        except EmbrasureError as problem:
            LOG.warning("what ends when cannot be read: %s", problem)
            return []

    async def run(self) -> None:
        """The log and the metrics file are current until this is cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(limits.METRICS_SECONDS)

    def look(self) -> None:
        """What is due is in the log, once an hour each; the metrics file says what holds now."""
        at = self.clock()
        try:
            items = self.items()
            self._say(items, at)
            self._show_leaves()
            raw = metrics.exposition(items, at, counts=self._counts())
            fs.replace_file(self._folder, FILE, raw, mode=0o644)
        except EmbrasureError as problem:
            # A full disk stops no roll-out; the old file's own time shows that it is old.
            LOG.warning("no new metrics: %s", problem)
        except Exception:  # a look never ends a gateway that works
            LOG.exception("no new metrics")

    def _show_leaves(self) -> None:
        """The public halves of the leaves in memory are in a file: `doctor` asks no process."""
        raw = b"".join(pem_of(cert) for cert in self._certificates.leaves())
        if raw != self._shown:
            fs.replace_file(self._folder, inventory.LEAVES, raw, mode=0o644)
            self._shown = raw

    def _say(self, items: list[Item], at: datetime) -> None:
        steady = time.monotonic()
        for item in told(items, at):
            key = (item.what, item.holder)
            if steady - self._said.get(key, -limits.WARN_LOG_SECONDS) >= limits.WARN_LOG_SECONDS:
                self._said[key] = steady
                LOG.warning("%s; %s: %s", item.sentence(at), item.action, item.command)
