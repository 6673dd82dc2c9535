"""`embrasure mirror run`: the gateway brings, everybody reads, nothing else happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.fs import read_file
from embrasure.trust import layout
from mirror.believed import Believed
from mirror.config import Config, Paths
from mirror.doorway import Doorway, Held
from mirror.inbox import Inbox
from mirror.publish import Publisher, Scope, held_documents, held_role
from mirror.receive import INGEST_TABLE, Ingest, ingest_service
from mirror.running import listening, stop_asked
from mirror.serve import read_app
from mirror.verify import Checked
from mirror.watch import Watchers


@asynccontextmanager
async def mirror(
    root: Path, config: Config, *, clock: Clock = now
) -> AsyncIterator[dict[str, int]]:
    """A mirror that answers on the given ports; what it showed before, it shows again."""
    paths = Paths(root)
    loop = asyncio.get_running_loop()
    watchers = Watchers()

    def shown(checked: Checked) -> None:
        # Called in a worker thread, after the rename.
        believed.take(checked.documents, checked.view.role(layout.REVOCATIONS))
        doorway.obey()
        version = checked.view.roles[layout.TIMESTAMP].version
        loop.call_soon_threadsafe(watchers.show, version)

    fleet = layout.fleet_role(config.env)
    publisher = Publisher(
        Inbox(paths.inbox, paths.public),
        paths.tuf,
        anchor=read_file(paths.anchor, limit=limits.ROOT_BYTES),
        scope=Scope(roles=None, needs=fleet),
        clock=clock,
        shown=shown,
    )
    watchers.show(publisher.shown_version())
    believed = Believed(
        paths,
        config,
        held_documents(publisher.client, paths.public, fleet),
        held_role(publisher.client, layout.REVOCATIONS),
    )
    held = Held(paths, config, publisher.client)
    publisher.inbox.counts = held.standing.counts
    doorway = Doorway(
        held,
        config,
        learn=believed.take,
        roots=believed.ca_roots,
        news=lambda: loop.call_soon_threadsafe(watchers.stir),
    )
    async with listening(
        paths,
        config,
        holder=believed.holder,
        services=[ingest_service(Ingest(publisher.inbox, publisher))],
        table=INGEST_TABLE,
        app=read_app(paths.public, watchers),
        second="read",
        doorway=doorway,
        clock=clock,
    ) as ports:
        try:
            yield ports
        finally:
            watchers.close()


def run(root: Path, config: Config, *, ready: Callable[[dict[str, int]], None]) -> None:
    """A mirror has run until it was asked to end; `ready` was told its ports."""

    async def main() -> None:
        stop = stop_asked()
        async with mirror(root, config) as ports:
            ready(ports)
            await stop.wait()

    asyncio.run(main())
