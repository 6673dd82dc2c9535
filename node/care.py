"""What a node holds that ends, and what can be wrong with its host."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from embrasure import findings as look
from embrasure import limits
from embrasure.advice import Where, command_of, verb
from embrasure.errors import EmbrasureError
from embrasure.expiry import Item, certificate_item
from embrasure.findings import Finding
from embrasure.fs import read_file
from embrasure.net.certificates import load_certificates
from embrasure.trust.floors import FloorStore
from node.config import NodeConfig, app_names, load_config
from node.identity import load_identity
from node.isolation import is_production
from node.journal import Journal
from node.material import Material
from node.paths import Paths
from node.run import LOCK
from node.service import FETCH_LOCK, PORTS
from node.states import RESTING


def items(folder: Path) -> list[Item]:
    """Return the node's certificates and its key epoch; raises Misuse, Refused, Denied."""
    paths = Paths(folder)
    config = load_config(paths)
    found = [_keys(paths, config)]
    for name, cert in _certificates(paths, config):
        found.append(certificate_item(cert, place=name, where=Where(env=config.env)))
    return found


def _certificates(paths: Paths, config: NodeConfig) -> Iterator[tuple[str, x509.Certificate]]:
    if config.mode != "push":
        return
    if paths.boot_cert.exists():
        raw = read_file(paths.boot_cert, limit=limits.TLS_BUNDLE_BYTES)
        yield str(paths.boot_cert), load_certificates(raw, what="boot certificate")[0]
    if paths.tls_chain.exists() or paths.enrolled.exists():
        chain = load_certificates(Material(paths).chain(), what="node certificate")
        yield str(paths.tls_chain), chain[0]


def _keys(paths: Paths, config: NodeConfig) -> Item:
    identity = load_identity(paths)
    return Item(
        kind="key",
        what=f"keys of epoch {identity.epoch}",
        name=f"node/{config.id}",
        holder=f"node/{config.id}",
        serial=identity.signer().public_key.keyid[:16],
        until=None,
        life_s=0,
        action="enrol again after a loss or a theft",
        command=command_of("key", config.id),
        place=str(paths.keys),
    )


def findings(folder: Path, at: datetime) -> list[Finding]:
    """Return what is wrong with the node below `folder`; raises Misuse, Refused, Denied."""
    paths = Paths(folder)
    config = load_config(paths)
    running = any(look.is_locked(one) for one in (paths.lock / LOCK, paths.tls / FETCH_LOCK))
    listens = {"push": config.listen} if config.mode == "push" else {}
    run = verb("node", "run", "--root", folder)
    keys = [*paths.keys.glob("*.key")]
    if not is_production(paths, config):  # there the TLS key is another user's
        keys.append(paths.tls_key)
    return [
        *look.private(sorted(keys)),
        *look.unshared([paths.node_toml, paths.anchor, *sorted(paths.apps.glob("*.toml"))]),
        *look.disk(paths.data),
        *look.ports(paths.net / PORTS, listens, running=running, start=run),
        *_half_made(paths, folder, running=running),
        *look.clock(at, [], newest=_floor(paths)),
        *look.ends(lambda: items(folder), at),
    ]


def _half_made(paths: Paths, folder: Path, *, running: bool) -> Iterator[Finding]:
    if not paths.enrolled.exists():
        fix = verb("node", "enrol", "ANSWER", "--root", folder)
        yield Finding("half-made", "node", "is not enrolled", fix)
    for app in app_names(paths):
        entry, fix = Journal(paths).read(app), verb("node", "boot", "--root", folder)
        if entry.damaged:
            yield Finding("half-made", app, "its state record cannot be read", fix)
        elif entry.record is not None and entry.record.state not in RESTING and not running:
            what = f"an install stopped in {entry.record.state.value}"
            yield Finding("half-made", app, what, fix)


def _floor(paths: Paths) -> datetime | None:
    store = FloorStore(paths.floors)
    try:
        floors = store.load(repair=False) if store.exists() else None
    except EmbrasureError:
        return None
    return datetime.fromtimestamp(floors.time, tz=UTC) if floors and floors.time else None
