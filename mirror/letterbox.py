"""`embrasure letterbox run`: nodes post, the gateway collects and brings the directory."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.errors import EmbrasureError, Refused
from embrasure.fs import read_file
from embrasure.trust import layout
from embrasure.trust.view import Role
from mirror.believed import Believed
from mirror.collect import COLLECT_TABLE, Collect, collect_service
from mirror.config import Config, Paths
from mirror.doorway import Doorway, Held
from mirror.inbox import Inbox, accept_all
from mirror.post import Box, Directory, post_app
from mirror.publish import Publisher, Scope, held_documents, held_role
from mirror.receive import INGEST_TABLE, Ingest, ingest_service
from mirror.running import listening, stop_asked
from mirror.slots import Slots

LOG = logging.getLogger(__name__)
_SWEEP_SECONDS = 3600.0


def accept_trust(env: str) -> Callable[[str], None]:
    """Return the rule of what a letterbox takes: trust files of `env`, no plan, gate or blob."""
    roles = "|".join(("root", "targets", "snapshot", layout.REVOCATIONS, layout.fleet_role(env)))
    metadata = re.compile(rf"metadata/[0-9]+\.({roles})\.json")
    targets = (f"targets/fleet/{env}/", "targets/revoked/")

    def accepts(path: str) -> None:
        accept_all(path)
        if not metadata.fullmatch(path) and not path.startswith(targets):
            raise Refused("path", expected="a trust file", got=path, reason="bad-path")

    return accepts


@asynccontextmanager
async def letterbox(
    root: Path, config: Config, *, clock: Clock = now
) -> AsyncIterator[dict[str, int]]:
    """A letterbox that answers on the given ports; what was posted before is still there."""
    paths = Paths(root)
    directory, slots = Directory(), Slots(paths.posts, clock=clock)

    def learn(documents: dict[str, bytes], revoked: Role | None) -> None:
        believed.take(documents, revoked)
        directory.deny(believed.denied)
        if not any(path.startswith(f"fleet/{config.env}/dir/") for path in documents):
            return
        try:
            directory.take(documents)
        except EmbrasureError as problem:
            LOG.warning("the directory cannot be used, the old one stays: %s", problem)

    fleet = layout.fleet_role(config.env)
    publisher = Publisher(
        Inbox(paths.inbox, paths.public, accepts=accept_trust(config.env)),
        paths.tuf,
        anchor=read_file(paths.anchor, limit=limits.ROOT_BYTES),
        scope=Scope(roles=(fleet, layout.REVOCATIONS), needs=fleet),
        clock=clock,
        shown=lambda checked: learn(checked.documents, checked.view.role(layout.REVOCATIONS)),
    )
    documents = held_documents(publisher.client, paths.public, fleet)
    revoked = held_role(publisher.client, layout.REVOCATIONS)
    believed = Believed(paths, config, documents, revoked)
    learn(documents, revoked)
    held = Held(paths, config, publisher.client)
    publisher.inbox.counts = held.standing.counts
    doorway = Doorway(held, config, learn=learn, roots=believed.ca_roots)
    sweeper = asyncio.create_task(sweep(slots))
    async with listening(
        paths,
        config,
        holder=believed.holder,
        services=[
            ingest_service(Ingest(publisher.inbox, publisher)),
            collect_service(Collect(slots)),
        ],
        table={**INGEST_TABLE, **COLLECT_TABLE},
        app=post_app(Box(directory, slots)),
        second="post",
        doorway=doorway,
        clock=clock,
    ) as ports:
        try:
            yield ports
        finally:
            sweeper.cancel()


async def sweep(slots: Slots) -> None:
    """Posts that nobody claims in time go, once an hour."""
    while True:
        gone = await asyncio.to_thread(slots.sweep)
        if gone:
            LOG.error("%d posts were never collected and are gone", gone)
        await asyncio.sleep(_SWEEP_SECONDS)


def run(root: Path, config: Config, *, ready: Callable[[dict[str, int]], None]) -> None:
    """A letterbox has run until it was asked to end; `ready` was told its ports."""

    async def main() -> None:
        stop = stop_asked()
        async with letterbox(root, config) as ports:
            ready(ports)
            await stop.wait()

    asyncio.run(main())
