"""What can be wrong with a gateway's folder: keys, ports, half-made state, ends, a clock behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from embrasure import findings as look
from embrasure.advice import verb
from embrasure.errors import EmbrasureError
from embrasure.findings import Finding
from gateway import inventory
from gateway.config import FILE, Config, Paths, read_config


def findings(folder: Path, at: datetime) -> list[Finding]:
    """Return what is wrong with the gateway's folder; raises Misuse, Denied."""
    config, paths = read_config(folder), Paths(folder)
    run = verb("gateway", "run", folder)
    keys = sorted(paths.keys.glob("*.key"))
    listens = {"admin": config.listen, **({"login": config.login} if config.login else {})}
    return [
        *look.private([*keys, paths.state / "gateway.sqlite"]),
        *look.unshared([folder / FILE, paths.anchor]),
        *look.disk(folder),
        *look.ports(
            folder / "ports.json", listens, running=look.is_locked(paths.state / "lock"), start=run
        ),
        *_half_made(paths, config, run),
        *look.unfinished(folder, fix=run),
        *_clock(folder, at),
        *look.ends(lambda: inventory.items(folder), at),
    ]


def _half_made(paths: Paths, config: Config, run: str) -> Iterator[Finding]:
    again = verb("gateway", "init", paths.folder, "--trust", "TRUST")
    if paths.incoming.is_dir() and not look.is_locked(paths.state / "lock"):
        yield Finding("half-made", str(paths.incoming), "waits for the next start", run)
    uris = config.online.uris()
    issuers = [config.issuers.gateway, config.issuers.admin, config.issuers.operator]
    uris += [files.key for files in issuers if files is not None]
    for uri in uris:
        scheme, _, path = uri.partition(":")
        if scheme == "keyfile" and not (paths.folder / path).is_file():
            yield Finding("half-made", uri, "is named in gateway.toml and missing", again)
    if not (paths.repository / "metadata").is_dir():
        yield Finding("half-made", str(paths.repository), "holds no metadata", again)


def _clock(folder: Path, at: datetime) -> Iterator[Finding]:
    try:
        items = inventory.items(folder)
    except EmbrasureError:
        return  # `ends` says why
    yield from look.clock(at, inventory.newest_signature(items))
