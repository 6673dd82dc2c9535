"""What a gateway holds that ends: its issuers, its own leaves, the roles it publishes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from cryptography import x509
from securesystemslib.signer import Key
from tuf.api.metadata import Root, Targets

from embrasure import fs, limits
from embrasure.advice import Where, command_of
from embrasure.clock import now, read_time
from embrasure.errors import EmbrasureError, NotFound
from embrasure.expiry import Item, certificate_item, role_item, role_kind
from embrasure.net.certificates import load_certificates
from embrasure.trust import layout
from embrasure.trust.policy import Policy
from embrasure.trust.view import Role
from gateway import certificate_rows
from gateway import metadata as form
from gateway.config import Config, Paths, read_config
from gateway.database import Database
from gateway.local_status import local_status
from gateway.repository import Repository
from pki import people

LEAVES = "leaves.pem"  # public: what a running gateway shows now
_ONLINE = (layout.SNAPSHOT, layout.TIMESTAMP)


def items(folder: Path) -> list[Item]:
    """Return the rows of a gateway's folder, from its files alone; raises Misuse, Refused.

    The leaves of a gateway are those that it wrote down when it last ran.
    """
    config, paths = read_config(folder), Paths(folder)
    found = [*issuers(folder, config), *leaves(_written(folder), folder), *_root(paths)]
    for role in local_status(folder, at=now()).roles:
        found.append(
            role_item(
                role.name,
                version=role.version,
                until=read_time(role.until),
                holder=f"gateway/{config.name}",
                place=paths.repository,
                where=Where(gateway=folder),
            )
        )
    return found


def issuers(folder: Path, config: Config) -> Iterator[Item]:
    """Yield the intermediates whose keys this gateway uses."""
    for name in config.issuers.__struct_fields__:
        files = getattr(config.issuers, name)
        if files is None:
            continue
        file = folder / files.certificate
        cert = load_certificates(fs.read_file(file, limit=16384), what=f"{name} issuer")[0]
        yield certificate_item(cert, place=file)


def _written(folder: Path) -> list[x509.Certificate]:
    """A gateway that is off makes new leaves at its start: ended ones say nothing."""
    try:
        raw = fs.read_file(folder / LEAVES, limit=limits.TLS_BUNDLE_BYTES)
    except NotFound:
        return []
    certs = load_certificates(raw, what=LEAVES)
    return [cert for cert in certs if cert.not_valid_after_utc > now()]


def _root(paths: Paths) -> Iterator[Item]:
    numbers = [
        int(file.name.partition(".")[0])
        for file in (paths.repository / "metadata").glob("*.root.json")
        if file.name.partition(".")[0].isdigit()
    ]
    if not numbers:
        return
    raw = fs.read_file(
        paths.repository / layout.metadata_file(layout.ROOT, max(numbers)), limit=limits.ROOT_BYTES
    )
    signed = form.read_metadata(raw, Root, layout.ROOT).signed
    yield role_item(
        layout.ROOT,
        version=signed.version,
        until=signed.expires,
        holder=_owners(signed),
        place=paths.repository,
        where=Where(gateway=paths.folder),
    )


def _owners(root: Root) -> str:
    role = root.roles[layout.ROOT]
    found = [_owner(keyid, root.keys[keyid], {}) for keyid in role.keyids if keyid in root.keys]
    return f"{role.threshold} of {', '.join(sorted(found))}"


def leaves(certs: list[x509.Certificate], folder: Path) -> Iterator[Item]:
    """Yield the gateway's own leaves, which it renews by itself while it runs."""
    for cert in certs:
        yield certificate_item(cert, place="memory", where=Where(gateway=folder))


def listeners(database: Database) -> Iterator[Item]:
    """Yield the certificates of nodes, mirrors and letterboxes, as this gateway saw them last."""
    for (kind, name, env), held in sorted(certificate_rows.listed(database).items()):
        if held.not_before is None or held.not_after is None:
            continue
        yield Item(
            kind=kind,
            what=f"certificate {kind}",
            name=f"{kind}/{name}",
            holder=f"{kind}/{name}",
            until=held.not_after,
            life_s=int((held.not_after - held.not_before).total_seconds()),
            command=command_of(kind, f"{kind}/{name}", Where(env=env)),
            place=held.problem or "seen by the gateway",
            issuer=held.issuer,
            serial=held.serial,
        )


def roles(
    repository: Repository, policies: Mapping[str, Policy], folder: Path, name: str
) -> Iterator[Item]:
    """Yield every published role, with the persons who may sign it."""
    keys = _all_keys(repository)
    for role, found in sorted(repository.view().roles.items()):
        yield role_item(
            role,
            version=found.version,
            until=found.expires,
            holder=_holder(found, keys, policies) or f"gateway/{name}",
            place="published",
            where=Where(gateway=folder),
        )


def _all_keys(repository: Repository) -> dict[str, Key]:
    """Return every key that root or targets name: two files are parsed, however many roles."""
    view, client = repository.view(), repository.client
    root = form.read_metadata(client.role_bytes(view, layout.ROOT), Root, layout.ROOT).signed
    raw = client.role_bytes(view, layout.TARGETS)
    delegations = form.read_metadata(raw, Targets, layout.TARGETS).signed.delegations
    return {**root.keys, **(delegations.keys if delegations is not None else {})}


def _holder(role: Role, keys: Mapping[str, Key], policies: Mapping[str, Policy]) -> str:
    if role_kind(role.name) in ("gates", *_ONLINE):
        return ""
    known = {_owner(keyid, keys[keyid], policies) for keyid in role.keys if keyid in keys}
    return f"{role.threshold} of {', '.join(sorted(known))}"


def _owner(keyid: str, key: Key, policies: Mapping[str, Policy]) -> str:
    for policy in policies.values():
        if (person := policy.person_of(keyid)) is not None:
            return person
    try:
        return people.owner_of(key)
    except EmbrasureError:
        return keyid[:16]


def newest_signature(items_found: list[Item]) -> Iterator[tuple[str, datetime]]:
    """Yield when the online roles were signed, for a look at the clock."""
    for item in items_found:
        if item.kind in ("gates", *_ONLINE) and item.until is not None:
            yield (
                item.title,
                datetime.fromtimestamp(item.until.timestamp() - item.life_s, tz=item.until.tzinfo),
            )
