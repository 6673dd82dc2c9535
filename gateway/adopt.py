"""Trust files brought to the gateway: root, targets, fleet, revocations; they verify themselves.

Who brings them proves nothing and needs no right: they count only when a node would take them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuf.api.metadata import Targets

from embrasure import limits
from embrasure.errors import Refused
from embrasure.net.trustbundle import trust_of
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.directory import (
    Entry,
    parse_recovery,
    parse_shard,
    parse_tls_bundle,
    shard_names,
)
from embrasure.trust.plan import Plan
from embrasure.trust.policy import parse_policy, parse_revocations
from gateway import metadata as form
from gateway.named import check_named
from gateway.repository import Repository


def adopt(
    repository: Repository,
    files: Mapping[str, bytes],
    *,
    force: bool,
    plans: Sequence[Plan] = (),
) -> dict[str, int]:
    """Return role -> version of what is new; it is published, and so nothing else is wrong.

    force: publish also when a current approval role loses its signatures by it, or a node that
    one of `plans`, the open ones, names is changed
    Steps: 1 only paths of trust files; 2 only newer versions; 3 documents that parse; 4 no open
    plan and no approval is orphaned; 5 the publisher lets a fresh client verify all of it.
    """
    # 1.
    metadata = {path: raw for path, raw in files.items() if layout.parse_file(path).metadata}
    documents = {path: raw for path, raw in files.items() if layout.parse_file(path).target}
    if len(metadata) + len(documents) != len(files):
        raise _refused("metadata and documents", "a blob")
    newer: dict[str, bytes] = {}
    roles: dict[str, int] = {}
    before = roots = repository.disk.root_version()
    # 2.
    for path, raw in sorted(metadata.items(), key=lambda item: _version(item[0])):
        role, version = _name(path), _version(path)
        check_trust_role(role)
        if len(raw) > form.limit_of(role):
            raise _refused(f"{role} of {form.limit_of(role)} bytes", len(raw))
        if role == layout.ROOT:
            if version == roots + 1:
                roots, newer[path] = version, raw
        elif _is_newer(repository, role, version, raw):
            roles[role] = max(version, roles.get(role, 0))
            newer[path] = raw
    if not newer:
        return {}
    # 3. Only what the new files list and we lack: nobody fills the disk with what nobody asked for.
    wanted = [path for path in listed_files(newer) if not (repository.folder / path).exists()]
    documents = {path: documents[path] for path in wanted if path in documents}
    for path, raw in documents.items():
        check_document(path, raw)
    # 4.
    if plans and not force:
        check_named(plans, listed_nodes(repository), documents)
    if layout.TARGETS in roles and not force:
        check_orphans(repository, newer[layout.metadata_file(layout.TARGETS, roles["targets"])])
    # 5.
    with repository.change():
        repository.stage_trust({**documents, **newer}, roles)
        repository.publish()
    found = dict(roles)
    if roots > before:
        found[layout.ROOT] = roots
    return found


def listed_nodes(repository: Repository) -> dict[str, Entry]:
    """Return the directory entries in force, of every environment, by node id; raises Refused."""
    view, found = repository.view(), dict[str, Entry]()
    for role in sorted(view.roles):
        env = role.removeprefix("fleet-")
        if env == role or view.target(role, layout.policy_path(env)) is None:
            continue
        raw = repository.document(role, layout.policy_path(env), limit=limits.POLICY_BYTES)
        for name in shard_names(parse_policy(raw).shards):
            path = layout.shard_path(env, name)
            shard = parse_shard(repository.document(role, path, limit=limits.SHARD_BYTES))
            found |= {entry.id: entry for entry in shard.entries}
    return found


def check_trust_role(role: str) -> None:
    """Return only when `role` is one that the security team signs offline; raises Refused.

    An approval role comes only by approvals, an online role only from our own keys.
    """
    if role in (layout.ROOT, layout.TARGETS, layout.REVOCATIONS) or role.startswith("fleet-"):
        return
    raise _refused("root, targets, revocations or fleet-ENV", role)


def listed_files(metadata: Mapping[str, bytes]) -> list[str]:
    """Return the repository paths of the documents that these metadata files list."""
    found = []
    for path, raw in metadata.items():
        role = _name(path)
        if role != layout.ROOT:
            for name, file in form.read_metadata(raw, Targets, role).signed.targets.items():
                found.append(layout.target_file(name, file.hashes.get("sha256", "")))
    return found


def check_document(path: str, raw: bytes) -> None:
    """Return only when a trust document is well-formed; raises Refused.

    It would verify all the same, and then every node would stop at it.
    """
    folder, _, file = path.removeprefix("targets/").rpartition("/")
    digest, _, name = file.partition(".")
    if digest != sha256_hex(raw):
        raise _refused(f"the bytes of {path}", "others")
    if folder == "revoked":
        parse_revocations(raw)
    elif folder.startswith("fleet/") and folder.endswith("/dir"):
        parse_shard(raw)
    elif folder.startswith("fleet/") and name == "policy.json":
        parse_policy(raw)
    elif folder.startswith("fleet/") and name == "tls.json":
        trust_of(parse_tls_bundle(raw))
    elif folder.startswith("fleet/") and name == "recovery.json":
        parse_recovery(raw)
    else:
        raise _refused("a document of fleet or revocations", path)


def check_orphans(repository: Repository, raw: bytes) -> None:
    """Return only when every published approval role still has its threshold of signatures under
    the new targets file; raises Refused (`orphan`).

    A routine change of keys must not take the way back away.
    """
    targets = form.read_metadata(raw, Targets, layout.TARGETS).signed
    lost = []
    for role in sorted(repository.view().roles):
        if role in layout.TOP_ROLES or role.startswith(("fleet-", "gates-")):
            continue
        if role == layout.REVOCATIONS:
            continue
        if not form.has_threshold(repository.role_file(role), role, targets):
            lost.append(role)
    if lost:
        raise Refused(
            "targets",
            expected="every current approval to keep its signatures",
            got=", ".join(lost),
            hint="sign these roles again first, or say --force",
            reason="orphan",
        )


def _is_newer(repository: Repository, role: str, version: int, raw: bytes) -> bool:
    """Return whether this is news; other bytes under a published version are refused."""
    published = repository.published_version(role)
    if version == published and raw != repository.role_file(role):
        raise Refused(
            f"{role} v{version}", expected="the published bytes", got="others", reason="rollback"
        )
    return version > published


def _name(path: str) -> str:
    file = path.removeprefix("metadata/").removesuffix(".json")
    return file.partition(".")[2] or file


def _version(path: str) -> int:
    number = path.removeprefix("metadata/").partition(".")[0]
    return int(number) if number.isdigit() else 0


def _refused(expected: str, got: object) -> Refused:
    return Refused("trust files", expected=expected, got=got, reason="not-trust")
