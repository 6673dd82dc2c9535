"""A service that runs: its two listeners, its certificate as it is renewed, its ports, its end."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from starlette.types import ASGIApp

from embrasure import limits
from embrasure.clock import Clock
from embrasure.errors import EmbrasureError
from embrasure.fs import Folder, lock, replace_file
from embrasure.net.authorize import Table
from embrasure.net.credentials import Pair, ServerKeys
from embrasure.net.identity import Identity
from embrasure.net.pairfile import write_pair
from embrasure.net.renewal import TABLE as RENEWAL_TABLE
from embrasure.net.renewal import Renewal, renewal_service
from embrasure.net.server import Service, bind, build_server
from embrasure.net.trustbundle import TrustHolder
from mirror.config import Config, Paths, load_shown
from mirror.doorway import Doorway
from mirror.listener import HttpsListener, split_address, tls_context

LOG = logging.getLogger(__name__)
PORTS = "ports.json"
_RELOAD_SECONDS = 60.0


@asynccontextmanager
async def listening(
    paths: Paths,
    config: Config,
    *,
    holder: TrustHolder,
    services: Sequence[Service],
    table: Table,
    app: ASGIApp,
    second: str,
    doorway: Doorway,
    clock: Clock,
) -> AsyncIterator[dict[str, int]]:
    """The gRPC listener and the HTTPS listener answer; the ports are in `ports.json`.

    second: the name of the HTTPS port there (`read`, `post`).
    """
    # The ports of an earlier run must send nobody to another process.
    remove_ports(paths)
    shown = load_shown(paths)
    keys = ServerKeys(shown.pair, holder, roles=["gateway"])
    https = HttpsListener(app, tls_context(shown.key, shown.chain))
    loop = asyncio.get_running_loop()

    def keep(pair: Pair) -> None:
        write_pair(paths.renewed, pair)
        keys.swap(pair)
        doorway.swap(pair)
        # Its handshakes are made in the loop: only there the context is changed.
        loop.call_soon_threadsafe(https.context.load_cert_chain, paths.renewed)

    renewing = Renewal(
        Identity(config.kind, config.name), holder, serving=lambda: keys.pair, keep=keep,
        clock=clock,
    )  # fmt: skip
    server: grpc.aio.Server = build_server(
        [*services, renewal_service(renewing)], {**table, **RENEWAL_TABLE}, holder, clock=clock
    )
    port = bind(server, config.ingest, keys)
    await server.start()
    try:
        ports = {"ingest": port, second: await https.start(*split_address(config.read))}

        def opened(door: int | None) -> None:
            if door is not None:
                ports["door"] = door
            replace_file(paths.root, PORTS, json.dumps(ports).encode("ascii"), mode=0o644)

        await asyncio.to_thread(doorway.obey)
        opened(await doorway.open(keys.pair))
        tasks = [
            asyncio.create_task(renew(paths, keys, https, doorway)),
            asyncio.create_task(doorway.watch(opened, lambda: keys.pair)),
        ]
        try:
            yield ports
        finally:
            for task in tasks:
                task.cancel()
            remove_ports(paths)
            await https.stop()
            await doorway.close()
    finally:
        await server.stop(limits.STOP_SECONDS / 10)


def remove_ports(paths: Paths) -> None:
    """No file names the ports of this service."""
    with Folder.open(paths.root) as folder:
        folder.unlink(PORTS, missing_ok=True)


async def renew(paths: Paths, keys: ServerKeys, https: HttpsListener, doorway: Doorway) -> None:
    """New connections see the certificate that is on disk; one that is wrong is left alone."""
    seen = _stamp(paths)
    while True:
        await asyncio.sleep(_RELOAD_SECONDS)
        found = _stamp(paths)
        if found == seen:
            continue
        try:
            shown = load_shown(paths)
            keys.swap(shown.pair)
            doorway.swap(shown.pair)
            https.context.load_cert_chain(shown.chain, shown.key)
            seen = found
        except (EmbrasureError, OSError) as problem:
            LOG.warning("the new certificate cannot be used, the old one stays: %s", problem)


def _stamp(paths: Paths) -> tuple[int, ...]:
    files = (path.stat() for path in (paths.tls_key, paths.tls_chain))
    return tuple(value for found in files for value in (found.st_mtime_ns, found.st_ino))


def stop_asked() -> asyncio.Event:
    """Return what is set once the process is asked to end (SIGTERM, SIGINT).

    Called before a listener answers: whoever sees the ports may already ask.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def run_alone(root: Path, main: Callable[[], object]) -> None:
    """`main` has run as the one process of this folder, with as many files as it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with lock(Paths(root).lock, seconds=1):
        main()
