"""`node repair`: a committed release whose files differ is built anew beside it, then exchanged.

Never in place: a half-repaired file is never run. What is missing comes from the blobs here, from
the good files of the damaged folder, or from one that the owner names; each byte by its digest.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from embrasure import limits
from embrasure.bundle.manifest import Manifest, parse_manifest
from embrasure.errors import Denied, EmbrasureError, Failed, NotFound
from embrasure.fs import Folder
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.fetcher import fetch_whole
from embrasure.trust.pace import paced
from embrasure.trust.plan import parse_plan
from embrasure.trust.source import Source
from node import drift, switch, tree
from node.ground import Ground, Report, release_of
from node.installer import Answer
from node.judge import Judge
from node.recovery import linked, serve, settle
from node.releases import APPROVAL, MANIFEST, PLAN, load_release, secret_document
from node.rollback import is_denied
from node.states import RESTING, Record, Release, State, advance
from node.verify import approved_digests, kept, verify, verify_kept


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the release is made of, each part proved by its digest."""

    manifest: Manifest
    documents: Mapping[str, bytes]


def repair(ground: Ground, judge: Judge, app: str, source: Source, report: Report) -> Answer:
    """Return `repaired` once the committed release is whole again and runs, and those that are kept
    for a way back or by a pin are whole; `none` when all were.

    Raises Denied (nothing committed, denied, or data that another release has changed), Damaged,
    Unavailable (something is lost and `source` lacks it), Failed (`no-space`).
    """
    release = release_of(ground.floors.load().app(app).committed)
    record = _rested(ground, app, release, report)
    if release is None:
        raise Denied(f"app {app}", expected="a committed release", got="none", reason="no-target",
                     hint="nothing was installed that could be repaired: install it by an order, "
                          "or embrasure node apply DIR")  # fmt: skip
    (found,) = verify(ground.paths, app)
    if not found.drift:
        rebuilt = _repair_kept(ground, judge, app, source, report)
        return Answer("repaired", rebuilt, app) if rebuilt else Answer("none", "whole", app)
    _check_may_run(ground, app, release, record)
    report.progress("repairing", 0, 0)
    parts = _parts(ground, judge, app, release, source)
    _heal_blobs(ground, app, release, parts.manifest, source)
    _exchange(ground, app, release, parts)
    # What runs has the damaged files open; the link may be another release's by now.
    ground.supervisor.stop(app)
    with Folder.open(ground.paths.app(app)) as folder:
        switch.switch(folder, release.id)
    serve(ground, app, release)
    if record is not None and record.state is State.DEGRADED:
        ground.journal.write(advance(record, State.IDLE, reason="", detail=""))
    drift.forget(ground, app)
    _repair_kept(ground, judge, app, source, report)
    return Answer("repaired", "", app)


def _repair_kept(ground: Ground, judge: Judge, app: str, source: Source, report: Report) -> str:
    """Return the releases that do not run and were built anew, as one text; "" when all were whole.

    Raises NotFound, Unavailable, Failed as `repair`; NotFound for one that nothing here tells of.
    """
    differ = {one.release for one in verify_kept(ground.paths, app) if one.drift}
    rebuilt = []
    for name, release in kept(ground.paths, app, ground.floors.load().app(app)).items():
        if name not in differ:
            continue
        if release is None:
            raise NotFound(
                f"release {name}", expected="a plan that tells what it is", got="none here",
                untouched="the release that runs", hint=f"embrasure node unpin {app} {name}",
            )  # fmt: skip
        report.progress("repairing", 0, 0)
        parts = _parts(ground, judge, app, release, source)
        _heal_blobs(ground, app, release, parts.manifest, source)
        _exchange(ground, app, release, parts)
        rebuilt.append(name)
    return ", ".join(rebuilt)


def _rested(ground: Ground, app: str, release: Release | None, report: Report) -> Record | None:
    """Return the record of the app at rest.

    Where no install is open and the committed release is linked nothing is settled: that would run
    the release before it, for the time of the repair, because this one is damaged.
    """
    entry = ground.journal.read(app)
    is_open = entry.damaged or (entry.record is not None and entry.record.state not in RESTING)
    if is_open or release is None or linked(ground, app) != release.id:
        return settle(ground, app, report)
    return entry.record


def _check_may_run(ground: Ground, app: str, release: Release, record: Record | None) -> None:
    """Return only when the release may be started anew; raises Denied."""
    policy = None
    with suppress(EmbrasureError):  # lost trust files deny nothing anew
        policy = ground.policy()
    by_policy = policy is not None and is_denied(app, release, policy)
    if by_policy or release.manifest in ground.floors.load().union.manifests:
        raise Denied(f"app {app}", expected="a release that is not denied", got=release.id,
                     hint="it waits for another plan", reason="denied")  # fmt: skip
    if record is not None and record.migrated != "no" and record.to.id != release.id:
        raise Denied(
            f"app {app}", expected=f"data of {release.id}", got=f"data that {record.to.id} changed",
            hint="it waits for another plan", reason="no-target",
        )  # fmt: skip


def _parts(ground: Ground, judge: Judge, app: str, release: Release, source: Source) -> _Parts:
    with Folder.open(ground.paths.releases(app)) as releases:
        raw = _read(releases, f"{release.id}/{PLAN}", release.plan, limits.PLAN_BYTES)
        raw = raw or judge.held_document(release.plan, limit=limits.PLAN_BYTES)
        if raw is None:
            raise NotFound(PLAN, expected=f"the plan {release.plan}", got="none on this node",
                           hint="install a new plan")  # fmt: skip
        plan = parse_plan(raw)
        manifest = _read(
            releases, f"{release.id}/{MANIFEST}", release.manifest, limits.MANIFEST_BYTES
        )
        manifest = manifest or judge.held_document(release.manifest, limit=limits.MANIFEST_BYTES)
        if manifest is None:
            path = layout.manifest_path(plan.env, plan.app, release.manifest)
            where = layout.target_file(path, release.manifest)
            manifest = fetch_whole(source, where, limit=plan.manifest.length)
            _check(where, manifest, release.manifest)
        parsed = parse_manifest(manifest)
        approval = _approval(releases, judge, app, release)
        documents = {MANIFEST: manifest, PLAN: raw, APPROVAL: approval}
        for secret in parsed.secrets:
            name = secret_document(secret.name)
            documents[name] = releases.read(f"{release.id}/{name}", limit=limits.SECRET_BYTES)
            listed = approved_digests(approval).values()
            _check(name, documents[name], *listed)
    return _Parts(parsed, documents)


def _read(releases: Folder, path: str, digest: str, limit: int) -> bytes | None:
    try:
        raw = releases.read(path, limit=limit)
    except EmbrasureError:
        return None
    return raw if sha256_hex(raw) == digest else None


def _check(what: str, raw: bytes, *digests: str) -> None:
    if sha256_hex(raw) not in digests:
        raise Failed(what, expected="the bytes that were approved", got="others",
                     hint="install a new plan", reason="bad-hash")  # fmt: skip


def _approval(releases: Folder, judge: Judge, app: str, release: Release) -> bytes:
    """Return a role file that lists this manifest: the release's own, else the one held now."""

    def own() -> bytes:
        return releases.read(f"{release.id}/{APPROVAL}", limit=limits.DELEGATED_BYTES)

    def newest() -> bytes:
        return judge.held_approval(app)

    for found in (own, newest):
        try:
            raw = found()
            if {release.manifest, release.plan} <= set(approved_digests(raw).values()):
                return raw
        except (EmbrasureError, ValueError, KeyError, TypeError, AttributeError):
            continue
    raise NotFound(APPROVAL, expected=f"an approval that lists {release.id}", got="none here",
                   hint="install a new plan")  # fmt: skip


def _heal_blobs(
    ground: Ground, app: str, release: Release, manifest: Manifest, source: Source
) -> None:
    """Every blob is here and hashes to its name; no twin has other bytes."""
    places = {entry.sha256: entry.path for entry in manifest.files if entry.kind == "file"}
    for digest, length in manifest.blobs().items():
        if ground.blobs.keep_good(digest):
            continue
        try:
            _take(ground, digest, length, _file(ground, app, release, places[digest]))
        except EmbrasureError:
            _fetch(ground, digest, length, places[digest], source)
    ground.blobs.sync()


def _fetch(ground: Ground, digest: str, length: int, path: str, source: Source) -> None:
    where = layout.blob_file(digest)
    try:
        pieces = source.fetch(where, offset=0, limit=length)
        _take(ground, digest, length, paced(pieces, what=where))
    except NotFound:
        raise NotFound(
            path, expected="its bytes on this node", got="none",
            untouched="the release that runs", hint="embrasure node repair APP --from DIR",
        ) from None  # fmt: skip


def _file(ground: Ground, app: str, release: Release, path: str) -> Iterator[bytes]:
    with Folder.open(ground.paths.release(app, release.id)) as folder:
        yield from folder.pieces(path)


def _take(ground: Ground, digest: str, length: int, pieces: Iterator[bytes]) -> None:
    """The blob is what `pieces` are; raises Refused when they are something else."""
    with ground.blobs.writer(digest, length=length) as writer:
        skip = writer.offset  # what an earlier try left is hashed already
        for piece in pieces:
            writer.write(piece[skip:])
            skip = max(0, skip - len(piece))
        writer.commit()


def _exchange(ground: Ground, app: str, release: Release, parts: _Parts) -> None:
    """The release's name means a folder that was built, synced and read back just now."""
    tx = secrets.token_hex(16)
    fresh = tree.staging_name(tx)
    with Folder.open(ground.paths.releases(app)) as releases:
        try:
            tree.build(
                releases, tx=tx, manifest=parts.manifest, documents=parts.documents,
                blobs=ground.blobs, user=os.geteuid(),
            )  # fmt: skip
            if releases.has(release.id):
                releases.exchange(fresh, release.id)
            else:
                releases.rename(fresh, releases, release.id)
            releases.fsync()
        finally:
            if releases.has(fresh):
                releases.remove_tree(fresh)
                releases.fsync()
    load_release(ground.paths, app, release)
