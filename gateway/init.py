"""Make a gateway's folder from the security team's, or bring newer trust files to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from embrasure import fs, limits
from embrasure.errors import EmbrasureError, Misuse
from embrasure.fs import Folder
from embrasure.net.identity import check_name
from embrasure.trust import layout
from gateway import handover
from gateway.config import (
    FILE,
    Config,
    IssuerFiles,
    Issuers,
    Online,
    Paths,
    read_config,
    write_config,
)
from gateway.issuer_keys import copy_issuer, has_key, issuer_files
from pki.folder import TrustFolder

FIRST_NAME, ANY_PORT = "g1", "127.0.0.1:0"  # of a new gateway, unless others are asked for
# Its own identities; and those of the listeners it dials, when the trust folder has their keys.
OWN_ISSUERS, RENEWING_ISSUERS = ("gateway", "admin"), ("node", "mirror")
_KEY_BYTES = limits.KEYFILE_BYTES


@dataclass(frozen=True, slots=True)
class Made:
    """What a gateway's folder was given: environments with a gate key, trust files, keys.

    unused: online key files in its `keys/` that neither folder's metadata names any more
    """

    folder: Path
    environments: tuple[str, ...]
    files: int
    keys: tuple[str, ...]
    unused: tuple[str, ...] = ()


def initialise(
    folder: Path,
    trust: TrustFolder,
    *,
    name: str | None,
    listen: str | None,
    login: str | None = None,
) -> Made:
    """Return what was copied: trust files, online keys, issuers, the collect key.

    login: an address opens the log-in port, and the operators' issuer is copied too
    A folder that exists gets what is new in the trust folder; its name and address stay: others
    are Misuse. Offline keys never travel: only the files named here are read. Raises Refused too.
    """
    paths = Paths(folder)
    again = (folder / FILE).exists()
    if again:
        name, listen = _same(folder, name=name, listen=listen)
        login = login or read_config(folder).login
    name, listen = name or FIRST_NAME, listen or ANY_PORT
    check_name(name)
    Folder.open(folder, create=True, mode=0o700).close()
    for inner in (paths.state, paths.keys):
        Folder.open(inner, create=True, mode=0o700).close()
    where = paths.incoming if again else paths.repository
    copied = 0
    for path, raw in trust_files(trust.path):
        write_below(where, path, raw)
        copied += 1
    if copied == 0:
        raise Misuse(str(trust.path), expected="metadata in force", got="none yet",
                     hint="embrasure trust merge")  # fmt: skip
    if not again:
        fs.replace_file(folder, "anchor.json", trust.anchor, mode=0o644)
    held = read_config(folder) if again else None
    online = handover.take_keys(trust, paths, held.online if held is not None else None)
    keys = (*online.names, *copy_issuers(trust, paths, with_operators=login is not None))
    config = _config(trust, name=name, listen=listen, login=login, online=online.uris, keys=keys)
    # Said by hand in gateway.toml; the trust folder knows nothing of it.
    tls_key = held.tls_key if held is not None else None
    write_config(folder, msgspec.structs.replace(config, tls_key=tls_key))
    unused = handover.unused_files(paths, online.uris)
    return Made(folder, tuple(sorted(online.uris.gates)), copied, keys, unused)


def _same(folder: Path, *, name: str | None, listen: str | None) -> tuple[str, str]:
    """Return name and address that the folder has; raises Misuse when others are asked for."""
    held = read_config(folder)
    for option, given, kept in (("--name", name, held.name), ("--listen", listen, held.listen)):
        if given is not None and given != kept:
            raise Misuse(option, expected=f"{kept}, as in {folder / FILE}", got=given,
                         hint=f"change it in {folder / FILE}, or leave {option} out")  # fmt: skip
    return held.name, held.listen


def _config(
    trust: TrustFolder,
    *,
    name: str,
    listen: str,
    login: str | None,
    online: Online,
    keys: tuple[str, ...],
) -> Config:
    def renews(role: str) -> IssuerFiles | None:
        return issuer_files(trust, role) if f"{role}-ca" in keys else None

    return Config(
        name=name,
        domain=trust.domain,
        listen=listen,
        login=login,
        collect_key_file="keys/collect.key",
        online=online,
        issuers=Issuers(
            gateway=issuer_files(trust, "gateway"),
            admin=issuer_files(trust, "admin"),
            node=renews("node"),
            mirror=renews("mirror"),
            operator=issuer_files(trust, "operator") if login else None,
        ),
    )


def copy_issuers(trust: TrustFolder, paths: Paths, *, with_operators: bool) -> tuple[str, ...]:
    """Return the names of the issuers' keys that were copied, encrypted as they are."""
    done = []
    for role in (*OWN_ISSUERS, *RENEWING_ISSUERS, *(["operator"] if with_operators else [])):
        if role not in RENEWING_ISSUERS or has_key(trust, role):
            done.append(copy_issuer(trust, paths, role))
    return tuple(done)


def trust_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (repository path, bytes) of every trust file below `folder`, documents first.

    What is no repository path is passed over; approval roles and online roles are left out.
    """
    for top in ("targets", "metadata"):
        for file in sorted((folder / top).rglob("*.json")):
            path = file.relative_to(folder).as_posix()
            try:
                layout.parse_file(path)
            except EmbrasureError:
                continue
            if is_trust_file(path):
                yield path, fs.read_file(file, limit=limits.ROOT_BYTES)


def is_trust_file(path: str) -> bool:
    """Return whether a repository path is of root, targets, revocations or `fleet-<env>`."""
    if path.startswith("targets/"):
        return path.startswith(("targets/fleet/", "targets/revoked/"))
    role = path.removesuffix(".json").partition(".")[2]
    offline = (layout.ROOT, layout.TARGETS, layout.REVOCATIONS)
    return role in offline or role.startswith("fleet-")


def write_below(top: Path, path: str, raw: bytes) -> None:
    """`top/path` holds `raw`; `path` is a repository path. Raises Refused."""
    layout.parse_file(path)
    folder, _, name = path.rpartition("/")
    inner = Folder.open(top, create=True, mode=0o755)
    for part in folder.split("/"):
        inner = inner.ensure(part, mode=0o755)
    inner.replace(name, raw, mode=0o644)
