"""Installed releases: read from their own folder, believed only by digest; collected when old."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from embrasure import limits
from embrasure.bundle.manifest import Manifest, parse_manifest
from embrasure.errors import Damaged, EmbrasureError
from embrasure.fs import Folder
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.load import parsed
from embrasure.trust.plan import Plan, parse_plan
from node.paths import Paths
from node.states import Release, release_name
from node.tree import Drift, compare

MANIFEST, PLAN, APPROVAL = "manifest.json", "plan.json", "approval.json"


def secret_document(name: str) -> str:
    """Return how the sealed file of a secret is called beside the release's other documents."""
    return f"secret.{name}.json"


# These change what would run. A wrong mode or a stray file is drift, never a reason to downgrade.
BROKEN = frozenset({"missing", "content", "type", "link"})


@dataclass(frozen=True, slots=True)
class Installed:
    """A release on disk whose documents are the ones that were approved."""

    release: Release
    manifest: Manifest
    plan: Plan
    documents: Mapping[str, bytes]


def load_release(paths: Paths, app: str, release: Release) -> Installed:
    """Return the release as its folder has it; raises Damaged when its documents are others.

    Its secrets are there as they were sealed: whether they open is asked when it is started.
    """
    with Folder.open(paths.release(app, release.id)) as folder:
        manifest = folder.read(MANIFEST, limit=limits.MANIFEST_BYTES)
        plan = folder.read(PLAN, limit=limits.PLAN_BYTES)
        approval = folder.read(APPROVAL, limit=limits.DELEGATED_BYTES)
        if (sha256_hex(manifest), sha256_hex(plan)) != (release.manifest, release.plan):
            raise Damaged(
                str(paths.release(app, release.id)),
                expected="the manifest and plan that were approved",
                got="others",
                untouched="it is not started",
                hint=f"embrasure node repair {app}",
            )
        found = parsed(parse_manifest, manifest)
        documents = {MANIFEST: manifest, PLAN: plan, APPROVAL: approval}
        for secret in found.secrets:
            name = secret_document(secret.name)
            documents[name] = folder.read(name, limit=limits.SECRET_BYTES)
    return Installed(release, found, parse_plan(plan), documents)


def find_release(paths: Paths, app: str, name: str) -> Release | None:
    """Return the release in folder `name`, told from its own documents; None when they do not fit
    the name. For recovery, when nothing else is left that could tell.
    """
    try:
        with Folder.open(paths.release(app, name)) as folder:
            manifest = folder.read(MANIFEST, limit=limits.MANIFEST_BYTES)
            plan = folder.read(PLAN, limit=limits.PLAN_BYTES)
        seq, digest = parse_plan(plan).seq, sha256_hex(manifest)
    except EmbrasureError:
        return None
    if release_name(seq, digest) != name:
        return None
    return Release(id=name, plan=sha256_hex(plan), seq=seq, manifest=digest, wave=0)


def drifts(paths: Paths, installed: Installed, *, deep: bool) -> list[Drift]:
    """Return every difference between the folder and its manifest, sorted."""
    app, release = installed.manifest.app, installed.release
    with Folder.open(paths.release(app, release.id)) as folder:
        return sorted(compare(folder, installed.manifest, installed.documents, deep=deep))


def is_whole(paths: Paths, app: str, release: Release, *, deep: bool) -> bool:
    """Return whether the release could be started as it was approved."""
    try:
        found = drifts(paths, load_release(paths, app, release), deep=deep)
    except EmbrasureError as problem:
        if problem.reason in ("late", "stopping"):
            raise  # whoever asked has no time for the answer
        return False
    return not any(drift.what in BROKEN for drift in found)
