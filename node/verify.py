"""Compares what is installed with what was approved, to the file; works with every server down."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from embrasure import limits
from embrasure.errors import EmbrasureError, Misuse
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.floors import AppFloor, Committed, FloorStore
from node import pins
from node.config import app_names
from node.ground import release_of
from node.journal import Journal
from node.paths import Paths
from node.recovery import linked_in
from node.releases import (
    APPROVAL,
    Installed,
    drifts,
    find_release,
    load_release,
    secret_document,
)
from node.states import HARMLESS, RESTING, Release
from node.tree import Drift

EXIT_DRIFT = 40


@dataclass(frozen=True, slots=True)
class Verified:
    """One release of an app. release: what is committed, "" when nothing is; drift: empty when all
    is well; kept: whether it is one that only waits: a way back, or pinned.
    """

    app: str
    release: str
    version: str
    drift: tuple[Drift, ...]
    kept: bool = False


def verify(paths: Paths, app: str = "", *, deep: bool = True) -> tuple[Verified, ...]:
    """Return what differs for one app, or for every app of this node.

    deep: hash every file, else types, modes, owners, lengths and links only
    Raises Refused (`no-trust`) when this node has lost what it had committed, Misuse for an app
    that it does not know.
    """
    floors = FloorStore(paths.floors).load()
    known = sorted({*app_names(paths), *floors.apps})
    if app and app not in known:
        # A name that was mistyped must not be told "ok".
        raise Misuse("app", expected=f"one of this node: {', '.join(known) or 'none'}", got=app,
                     hint="all of them: embrasure node verify")  # fmt: skip
    names = [app] if app else known
    return tuple(_one(paths, name, floors.app(name).committed, deep=deep) for name in names)


def verify_kept(paths: Paths, app: str = "", *, deep: bool = True) -> tuple[Verified, ...]:
    """Return what differs in releases that do not run and may run again: the way back, and pins.

    Raises Refused (`no-trust`), Misuse as `verify`.
    """
    floors = FloorStore(paths.floors).load()
    names = [app] if app else sorted({*app_names(paths), *floors.apps})
    return tuple(
        Verified(name, one, *_differs(paths, name, release, one, deep=deep), kept=True)
        for name in names
        for one, release in kept(paths, name, floors.app(name)).items()
    )


def kept(paths: Paths, app: str, floor: AppFloor) -> dict[str, Release | None]:
    """Return the releases that are kept for a way back or by a pin, oldest first; None for one
    whose documents do not tell what it is. What was collected since is left out.
    """
    committed, previous = release_of(floor.committed), release_of(floor.previous)
    record = Journal(paths).read(app).record
    back = record.back if record is not None else None
    known = {one.id: one for one in (back, previous) if one is not None}
    here = pins.there(paths, app)
    found = {name: known.get(name) or find_release(paths, app, name)
             for name in here if name in known or name in pins.pinned(paths, app)}  # fmt: skip
    return {name: one for name, one in found.items() if committed is None or name != committed.id}


def _differs(
    paths: Paths, app: str, release: Release | None, name: str, *, deep: bool
) -> tuple[str, tuple[Drift, ...]]:
    """Return the version of a release and how it differs from what was approved."""
    try:
        if release is None:
            return "", (Drift(name, "content"),)
        installed = load_release(paths, app, release)
    except EmbrasureError:
        return "", (Drift(name, "content"),)
    found = [*_documents(installed, release), *drifts(paths, installed, deep=deep)]
    return installed.manifest.version, tuple(found[: limits.DIFFERENCES_TOLD])


def _one(paths: Paths, app: str, committed: Committed | None, *, deep: bool) -> Verified:
    release, current = release_of(committed), linked_in(paths, app)
    if release is None:
        found = [Drift("current", "extra")] if current is not None else []
        return Verified(app, "", "", tuple(found if _is_resting(paths, app) else []))
    found = []
    if current != release.id and _is_resting(paths, app):
        found.append(Drift("current", "missing" if current is None else "link"))
    version, drift = _differs(paths, app, release, release.id, deep=deep)
    return Verified(app, release.id, version, tuple([*found, *drift][: limits.DIFFERENCES_TOLD]))


def _is_resting(paths: Paths, app: str) -> bool:
    """From PREPARING on the link may be the new release's: that is no drift."""
    record = Journal(paths).read(app).record
    return record is None or record.state in RESTING | HARMLESS


def _documents(installed: Installed, release: Release) -> list[Drift]:
    """The role file beside the release is the one that names its plan and manifest."""
    plan = installed.plan
    try:
        listed = approved_digests(installed.documents[APPROVAL])
    except (ValueError, KeyError, TypeError, AttributeError):
        return [Drift(APPROVAL, "content")]
    wanted = {
        layout.plan_path(plan.env, plan.app): release.plan,
        layout.manifest_path(plan.env, plan.app, release.manifest): release.manifest,
    }
    for secret in installed.manifest.secrets:
        digest = sha256_hex(installed.documents[secret_document(secret.name)])
        wanted[layout.secret_path(plan.env, plan.app, digest)] = digest
    if any(listed.get(path) != digest for path, digest in wanted.items()):
        return [Drift(APPROVAL, "content")]
    return []


def approved_digests(raw: bytes) -> dict[str, str]:
    """Return path -> SHA-256 of every target in an approval role's file.

    Its signatures were checked when the release was installed; this only finds a swapped file.
    Raises ValueError, KeyError, TypeError for other bytes.
    """
    if len(raw) > limits.DELEGATED_BYTES:
        raise ValueError("too large")
    signed = msgspec.json.decode(raw)["signed"]
    return {path: target["hashes"]["sha256"] for path, target in signed["targets"].items()}
