"""A running gateway: keys opened, own repository verified, operators served, roll-outs driven."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from embrasure import fs, limits
from embrasure.bundle.store import BlobStore
from embrasure.clock import Clock, now
from embrasure.errors import EmbrasureError
from embrasure.fs import Folder
from embrasure.net.credentials import AnonymousKeys, ServerKeys
from embrasure.net.identity import IssuerName
from embrasure.net.server import Service, bind, build_server
from embrasure.net.trustbundle import TrustHolder
from embrasure.trust.anchor import root_id_of
from embrasure.wire import admin_pb2, admin_pb2_grpc
from gateway.admin import Admin, Parts
from gateway.adopt import adopt
from gateway.audit import Journal
from gateway.believed import denied_everywhere, operator_trust
from gateway.certificates import Certificates
from gateway.certifying import Certifier
from gateway.config import Config, Paths, read_collect_key, read_config
from gateway.database import Database
from gateway.engine import Engine
from gateway.init import trust_files
from gateway.keyring import Keyring
from gateway.login_listener import counts_of, login_desk, login_port
from gateway.parts import EngineParts
from gateway.people import People
from gateway.proposals import Proposals
from gateway.repository import Repository
from gateway.service_table import ADMIN_TABLE
from gateway.watch import Watch
from pki.ca import Issuer, load_issuer
from pki.signers import SignerKey, open_bound, within

LOG = getLogger(__name__)
PORTS = "ports.json"
DRAIN_SECONDS = 5.0
OPERATOR_ACTS = frozenset(
    {"reserve", "propose", "approve", "reject", "withdraw", "submit-trust", "set-address", "sign"}
)
RENEW_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Opened:
    """Everything that a gateway holds open while it runs."""

    config: Config
    paths: Paths
    database: Database
    journal: Journal
    repository: Repository
    blobs: BlobStore
    certificates: Certificates
    certifier: Certifier | None
    operators: Issuer | None  # who certifies those who log in


def open_issuers(
    folder: Path, config: Config, passphrase: Callable[[str], bytes], *, root: str
) -> dict[IssuerName, Issuer]:
    """Return the issuers of `gateway.toml`, their keys opened; raises Denied, Refused."""
    found: dict[IssuerName, Issuer] = {}
    for name, files in config.issuers.held().items():
        key = open_bound(within(files.key, folder), passphrase, purpose="ca", root=root)
        certificate = folder / files.certificate
        found[name] = load_issuer(name, domain=config.domain, certificate=certificate, signer=key)
    return found


def open_client_key(
    folder: Path, config: Config, passphrase: Callable[[str], bytes], *, root: str
) -> SignerKey | None:
    """Return the key of `tls_key`, by which this gateway dials, None without; raises Denied."""
    if config.tls_key is None:
        return None
    uri = within(config.tls_key, folder)
    return SignerKey(open_bound(uri, passphrase, purpose="tls", root=root))


def open_certifier(issuers: Mapping[IssuerName, Issuer], clock: Clock) -> Certifier | None:
    """Return who renews listeners' certificates, None without any issuer of theirs."""
    renewing: tuple[tuple[IssuerName, str], ...] = (
        ("node", "nodes"),
        ("mirror", "mirrors and letterboxes"),
    )
    found = {name: issuers[name] for name, _ in renewing if name in issuers}
    for name, whose in renewing:
        if name not in found:
            LOG.warning("no issuer %s: certificates of %s are renewed by hand", name, whose)
    return Certifier(found, clock) if found else None


@contextmanager
def opened(
    folder: Path,
    passphrase: Callable[[str], bytes],
    *,
    clock: Clock = now,
    wait_s: float = limits.LOCK_SECONDS,
) -> Iterator[Opened]:
    """Yield the open gateway of `folder`, its repository verified and published; one process.

    wait_s: how long to wait for another process to end
    Raises Unavailable (`busy`) while another one runs, Refused, Damaged, Denied.
    """
    config, paths = read_config(folder), Paths(folder)
    anchor = fs.read_file(paths.anchor, limit=limits.ROOT_BYTES)
    root = root_id_of(anchor)
    with ExitStack() as held:
        database = Database(paths.state, wait_s=wait_s)
        held.callback(database.close)
        actor = f"gateway/{config.name}"
        journal = Journal(paths.state, database, root=root, actor=actor, clock=clock)
        held.callback(journal.close)
        online = Keyring(folder, passphrase, root=root)
        online.open_all()
        issuers = open_issuers(folder, config, passphrase, root=root)
        certificates = Certificates(
            config.name, gateway=issuers["gateway"], admin=issuers["admin"], clock=clock,
            client_key=open_client_key(folder, config, passphrase, root=root),
        )  # fmt: skip
        certifier = open_certifier(issuers, clock)
        repository = Repository(
            paths.repository,
            state=paths.state,
            anchor=anchor,
            online=online,
            journal=journal,
            clock=clock,
        )
        close_intents(journal)
        take_incoming(repository, paths)
        repository.open()
        blobs = BlobStore(paths.repository / "blobs", mode=0o755)
        held.callback(blobs.close)
        yield Opened(
            config,
            paths,
            database,
            journal,
            repository,
            blobs,
            certificates,
            certifier,
            issuers.get("operator"),
        )


def close_intents(journal: Journal) -> None:
    """What operators asked for and a crash left undecided is `unknown`: rows show what holds.

    The roll-out engine closes its own intents, after it has asked the nodes.
    """
    for event in journal.open_intents():
        if event.act in OPERATOR_ACTS:
            journal.outcome(event.n, "unknown", reason="the gateway was started again")


def take_incoming(repository: Repository, paths: Paths) -> None:
    """Trust files that a later `gateway init` brought are published, and gone from `incoming`.

    They come before the own old ones are judged: after long sleep only they may still be valid.
    """
    if not paths.incoming.is_dir():
        return
    files = dict(trust_files(paths.incoming))
    with suppress(EmbrasureError):
        repository.open()
    adopt(repository, files, force=False)
    with Folder.open(paths.folder) as top:
        top.remove_tree(paths.incoming.name)


async def serve_until_signal(held: Opened, *, clock: Clock, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(held, clock=clock, ready=ready, stop=stop)


async def serve(
    held: Opened, *, clock: Clock, ready: Callable[[int], None], stop: asyncio.Event
) -> None:
    """Serve operators and drive roll-outs until `stop` is set.

    ready: called with the port once operators can call
    """
    holder = TrustHolder(operator_trust(held.repository, held.config.domain))
    keys = ServerKeys(held.certificates.admin(), holder, roles=["operator"])
    proposals = Proposals(held.database, held.journal, held.repository, held.blobs, clock=clock)
    engine = Engine(
        EngineParts(
            name=held.config.name,
            database=held.database,
            journal=held.journal,
            repository=held.repository,
            proposals=proposals,
            identity=held.certificates,
            certifier=held.certifier,
            collect_key=read_collect_key(held.paths.folder, held.config),
            clock=clock,
        )
    )

    def changed() -> None:
        holder.swap(operator_trust(held.repository, held.config.domain))
        held.certificates.drop(denied_everywhere(held.repository).gateway_certs)
        engine.wake()

    people = People(held.repository)
    desk = login_desk(held, people, clock=clock)
    watch = Watch(
        held.paths.folder,
        held.config,
        certificates=held.certificates,
        repository=held.repository,
        people=people,
        database=held.database,
        clock=clock,
        counts=lambda: {"tls_configuration_failed": keys.failures, **counts_of(desk)},
    )
    parts = Parts(
        name=held.config.name,
        domain=held.config.domain,
        database=held.database,
        journal=held.journal,
        repository=held.repository,
        proposals=proposals,
        blobs=held.blobs,
        people=people,
        rollouts=engine,
        on_change=changed,
        watch=watch,
    )
    server = build_server(
        [
            Service(
                admin_pb2.DESCRIPTOR.services_by_name["Admin"],
                admin_pb2_grpc.add_AdminServicer_to_server,
                Admin(parts),
            )
        ],
        ADMIN_TABLE,
        holder,
        clock=clock,
    )
    port = bind(server, held.config.listen, keys)
    await server.start()
    try:
        async with login_port(held, desk) as (ports, shown):
            ports["admin"] = port
            fs.replace_file(held.paths.folder, PORTS, json.dumps(ports).encode())
            ready(port)
            renewal = _renew([keys, *shown], held.certificates)
            await _until_stopped(stop, engine.run(), renewal, watch.run())
    finally:
        await server.stop(DRAIN_SECONDS)
        with Folder.open(held.paths.folder) as top:
            top.unlink(PORTS, missing_ok=True)


async def _renew(shown: Sequence[ServerKeys | AnonymousKeys], certificates: Certificates) -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        try:
            pair = await asyncio.to_thread(certificates.admin)
        except EmbrasureError as problem:
            # An issuer's key in a token that is gone for a moment: the certificate is good yet.
            LOG.warning("the operators' port keeps its certificate: %s", problem)
            continue
        for keys in shown:
            keys.swap(pair)


async def _until_stopped(stop: asyncio.Event, *jobs: Coroutine[object, object, None]) -> None:
    """Run `jobs` until `stop`; one that ends or fails by itself ends all."""
    running = [asyncio.ensure_future(job) for job in jobs]
    waiting = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([*running, waiting], return_when=asyncio.FIRST_COMPLETED)
        for job in done:
            job.result()
    finally:
        for job in (*running, waiting):
            job.cancel()
        await asyncio.gather(*running, waiting, return_exceptions=True)
