"""Hand the online keys of the trust folder to a gateway: all new ones, and the old ones still used.

Safe beside a running gateway: files come first, `gateway.toml` names them after. It reads that file
again when it has changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Root, Targets

from embrasure import fs, limits
from embrasure.errors import Misuse
from embrasure.trust import layout
from gateway import metadata as form
from gateway.config import Online, Paths
from gateway.keyring import uris_of
from gateway.repository_folder import RepositoryFolder
from pki import keyfile, keyrecords, online
from pki.folder import TrustFolder

_KEY_BYTES = limits.KEYFILE_BYTES


@dataclass(frozen=True, slots=True)
class Given:
    """What `gateway.toml` names after it, and the files that were copied."""

    uris: Online
    names: tuple[str, ...]


def take_keys(trust: TrustFolder, paths: Paths, held: Online | None) -> Given:
    """The gateway has each online key that the trust folder's metadata in force names, encrypted
    as it is; keys that only its own published metadata names stay. Raises Misuse, Refused.

    held: what `gateway.toml` named before
    """
    wanted, published = online.listed_keys(trust), _published(paths)
    names = ["collect"]
    # It opens receipts, and signs nothing.
    raw = _read(trust.path / "online" / "collect.key")
    fs.replace_file(paths.keys, "collect.key", raw)
    files: dict[str, list[str]] = {role: [] for role in wanted}
    folder = trust.path / "online"
    # Key files, and records of keys that lie in tokens or key services.
    for file in sorted([*folder.glob("*.key"), *folder.glob("*.json")]):
        if file.name == "collect.key":
            continue
        raw = _read(file)
        scheme, keyid = _named(file, raw)
        for role, keyids in wanted.items():
            if keyid in keyids:
                fs.replace_file(paths.keys, file.name, raw)
                files[role].append(f"{scheme}:keys/{file.name}")
                names.append(file.stem)
    uris = {
        role: _uris(paths, found, held, role, published.get(role, frozenset()))
        for role, found in files.items()
    }
    for role in (layout.SNAPSHOT, layout.TIMESTAMP):
        if not uris.get(role):
            raise Misuse(
                str(trust.path / "online"), expected=f"the key of {role}", got="no such key file"
            )
    gates = {
        role.removeprefix("gates-"): found
        for role, found in uris.items()
        if role.startswith("gates-") and found
    }
    made = Online(
        snapshot=_one(uris[layout.SNAPSHOT]),
        timestamp=_one(uris[layout.TIMESTAMP]),
        gates={env: _one(found) for env, found in gates.items()},
    )
    return Given(made, tuple(names))


def unused_files(paths: Paths, named: Online) -> tuple[str, ...]:
    """Return the online key files below `keys/` that `gateway.toml` names no more."""
    roles = (layout.SNAPSHOT, layout.TIMESTAMP, *(f"gates-{env}" for env in named.gates))
    used = {uri.rpartition("/")[2] for role in roles for uri in uris_of(named, role)}
    online_names = re.compile(r"(snapshot|timestamp|gates-[a-z0-9]+)(-[0-9a-f]{8})?\.(key|json)")
    files = sorted(file.name for file in paths.keys.iterdir())
    return tuple(name for name in files if online_names.fullmatch(name) and name not in used)


def _uris(
    paths: Paths, new: list[str], held: Online | None, role: str, published: frozenset[str]
) -> tuple[str, ...]:
    """Return the new keys, then the old ones that what is published still names; keys that lie
    elsewhere (no key files) are never taken away.
    """
    old = []
    for uri in uris_of(held, role) if held is not None else ():
        if uri in new:
            continue
        if not uri.startswith(("keyfile:", "keyrecord:")) or _keyid(paths, uri) in published:
            old.append(uri)
    return (*new, *old)


def _keyid(paths: Paths, uri: str) -> str:
    file = paths.folder / uri.partition(":")[2]
    return _named(file, _read(file))[1] if file.exists() else ""


def _named(file: Path, raw: bytes) -> tuple[str, str]:
    """Return the scheme by which `gateway.toml` names a file, and the id of the key in it."""
    if file.suffix == ".json":
        return "keyrecord", keyrecords.parse_record(raw).keyid
    return "keyfile", keyfile.header_of(raw).keyid


def _one(found: tuple[str, ...]) -> str | tuple[str, ...]:
    return found[0] if len(found) == 1 else found


def _published(paths: Paths) -> Mapping[str, frozenset[str]]:
    """Return who may sign each online role by what this gateway has published, as far as it lies
    on its own disk: which keys to keep, and nothing that is believed.
    """
    disk = RepositoryFolder(paths.repository)
    version = disk.root_version() if (paths.repository / "metadata").is_dir() else 0
    if version == 0:
        return {}
    root = form.read_metadata(disk.role_file(layout.ROOT, version), Root, layout.ROOT).signed
    found = {role: form.key_ids(root, role) for role in (layout.SNAPSHOT, layout.TIMESTAMP)}
    listed = disk.listed()
    if layout.TARGETS in listed:
        raw = disk.role_file(layout.TARGETS, listed[layout.TARGETS])
        targets = form.read_metadata(raw, Targets, layout.TARGETS).signed
        for role in form.delegated_names(targets):
            if role.startswith("gates-"):
                found[role] = form.key_ids(targets, role)
    return found


def _read(file: Path) -> bytes:
    return fs.read_file(file, limit=_KEY_BYTES, private=True)
