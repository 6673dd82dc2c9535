"""What a mirror or letterbox holds that ends, and what can be wrong with its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from embrasure import findings as look
from embrasure import limits
from embrasure.advice import Where, verb
from embrasure.clock import read_time
from embrasure.errors import EmbrasureError, NotFound
from embrasure.expiry import Item, certificate_item, role_item
from embrasure.findings import Finding
from embrasure.fs import read_file
from embrasure.net.certificates import load_certificates
from embrasure.net.pairfile import read_chain
from embrasure.trust import layout
from mirror.config import Config, Kind, Paths, config_name, load_config


def _open(folder: Path) -> Config:
    kind: Kind = "mirror" if (folder / config_name("mirror")).is_file() else "letterbox"
    return load_config(folder, kind)


def items(folder: Path) -> list[Item]:
    """Return the service's certificate and the metadata it shows; raises Refused, Misuse."""
    config, paths = _open(folder), Paths(folder)
    chains = {paths.tls_chain: read_file(paths.tls_chain, limit=limits.TLS_BUNDLE_BYTES)}
    if (renewed := read_chain(paths.renewed)) is not None:
        chains[paths.renewed] = renewed
    leaves = {at: load_certificates(raw, what="TLS chain")[0] for at, raw in chains.items()}
    place = max(leaves, key=lambda at: leaves[at].not_valid_after_utc)
    found = [certificate_item(leaves[place], place=place, where=Where(out=folder))]
    for role, version, until in shown_roles(paths.public):
        found.append(
            role_item(
                role,
                version=version,
                until=until,
                holder=f"{config.kind}/{config.name}",
                place=paths.public,
            )
        )
    return found


def shown_roles(public: Path) -> Iterator[tuple[str, int, datetime]]:
    """Yield (role, version, end) of what is shown now; it was verified before it was shown."""
    try:
        timestamp = _signed(public, layout.TIMESTAMP, 0)
    except NotFound:
        return
    snapshot = _signed(public, layout.SNAPSHOT, _version(timestamp, "snapshot.json"))
    for signed, role in ((timestamp, layout.TIMESTAMP), (snapshot, layout.SNAPSHOT)):
        yield role, _number(signed.get("version")), _end(signed)
    meta = snapshot.get("meta")
    for name in sorted(meta if isinstance(meta, dict) else {}):
        role = name.removesuffix(".json")
        signed = _signed(public, role, _version(snapshot, name))
        yield role, _number(signed.get("version")), _end(signed)


def _signed(public: Path, role: str, version: int) -> dict[str, object]:
    raw = read_file(public / layout.metadata_file(role, version), limit=limits.TARGETS_BYTES)
    found = json.loads(raw).get("signed")
    return found if isinstance(found, dict) else {}


def _version(signed: dict[str, object], name: str) -> int:
    meta = signed.get("meta")
    entry = meta.get(name) if isinstance(meta, dict) else None
    return _number(entry.get("version") if isinstance(entry, dict) else 0)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _end(signed: dict[str, object]) -> datetime:
    return read_time(str(signed.get("expires")))


def findings(folder: Path, at: datetime) -> list[Finding]:
    """Return what is wrong with the folder; raises Misuse, Refused."""
    config, paths = _open(folder), Paths(folder)
    run = verb(config.kind, "run", folder)
    second = "read" if config.kind == "mirror" else "post"
    published = [
        (f"role {role} v{version}", until - timedelta(seconds=limits.TIMESTAMP_SECONDS))
        for role, version, until in shown_roles(paths.public)
        if role == layout.TIMESTAMP
    ]
    return [
        *look.private([paths.tls_key]),
        *look.unshared([folder / config_name(config.kind), paths.anchor, paths.issuer]),
        *look.disk(folder, least=limits.MIRROR_FREE_BYTES),
        *look.ports(
            folder / "ports.json",
            {"ingest": config.ingest, second: config.read},
            running=look.is_locked(paths.lock),
            start=run,
        ),
        *_half_made(paths, run),
        *look.clock(at, published),
        *look.ends(lambda: items(folder), at),
    ]


def _half_made(paths: Paths, run: str) -> Iterator[Finding]:
    if not paths.public.is_dir():
        yield Finding("half-made", str(paths.public), "is missing", run)
    try:
        read_file(paths.issuer, limit=limits.TLS_BUNDLE_BYTES)
    except EmbrasureError as problem:
        yield Finding(
            "half-made", str(paths.issuer), str(problem), verb("mirror", "init", "--help")
        )
