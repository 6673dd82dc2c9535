"""The next version of an approval role: built by the proposer, worked out again by each approver.

Pure: documents in, documents or a refusal out. The gateway is not trusted with any of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, TargetFile, Targets

from embrasure import limits
from embrasure.bundle.manifest import Manifest, parse_manifest
from embrasure.clock import read_time
from embrasure.errors import Refused
from embrasure.secret.sealed import Sealed
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import write
from embrasure.trust.plan import Plan, parse_plan
from gateway.metadata import read_metadata
from gateway.secrets import check_secrets, targets_of

ROLE_LIFE = timedelta(days=180)


@dataclass(frozen=True, slots=True)
class Release:
    """What one proposal asks people to sign, every digest worked out from the bytes themselves.

    sha256: of the role's signed bytes; plan_digest names the plan in all that follows.
    """

    env: str
    app: str
    version: int
    sha256: str
    plan: Plan
    plan_digest: str
    manifest: Manifest
    role_raw: bytes
    plan_raw: bytes
    manifest_raw: bytes
    secrets: tuple[Sealed, ...] = ()

    @property
    def role(self) -> str:
        """The name of the approval role."""
        return layout.app_role(self.env, self.app)

    @property
    def documents(self) -> dict[str, bytes]:
        """Target path -> bytes of the documents that this version brings."""
        path = layout.manifest_path(self.env, self.app, self.plan.manifest.sha256)
        sealed = {layout.secret_path(self.env, self.app, s.sha256): write(s) for s in self.secrets}
        own = {layout.plan_path(self.env, self.app): self.plan_raw, path: self.manifest_raw}
        return own | sealed

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that approvers sign."""
        return read_metadata(self.role_raw, Targets, self.role).signed_bytes


def build_role(
    plan: bytes,
    manifest: bytes,
    *,
    env: str,
    app: str,
    version: int,
    kept: Mapping[str, TargetFile],
    at: datetime,
    secrets: Collection[bytes] = (),
) -> bytes:
    """Return the unsigned file of version `version` of `<env>-<app>`.

    kept: the running manifest (`Grounds.kept`), so that what runs stays listed; secrets: the
    sealed files that the manifest names
    """
    path = layout.manifest_path(env, app, sha256_hex(manifest))
    listed = dict(kept)
    listed[path] = TargetFile.from_data(path, manifest, ["sha256"])
    path = layout.plan_path(env, app)
    listed[path] = TargetFile.from_data(path, plan, ["sha256"])
    listed |= targets_of(secrets, env=env, app=app)
    signed = Targets(version=version, expires=at + ROLE_LIFE, targets=listed)
    return Metadata(signed).to_bytes()


def check_release(
    role: bytes,
    plan: bytes,
    manifest: bytes,
    *,
    root: str,
    env: str,
    app: str,
    kept: Mapping[str, TargetFile],
    now: datetime,
    secrets: Collection[bytes] = (),
) -> Release:
    """Return the release when role, plan, manifest and secrets are one thing; raises Refused.

    Steps: 1 the role parses, without signatures, delegations or fields nobody knows; 2 it lives
    long enough and not too long; 3 plan and manifest parse and are for this fleet, environment
    and app, and the secrets are those that the manifest names; 4 the role lists exactly these
    bytes, and besides only what `kept` lists; 5 the numbers fit.
    """
    name = layout.app_role(env, app)

    def require(holds: bool, expected: str, got: object) -> None:
        if not holds:
            raise Refused(f"proposed role {name}", expected=expected, got=got, reason="proposal")

    # 1.
    metadata = read_metadata(role, Targets, name)
    signed = metadata.signed
    unknown = {**metadata.unrecognized_fields, **signed.unrecognized_fields}
    require(not metadata.signatures, "no signatures yet", len(metadata.signatures))
    require(signed.delegations is None, "no delegations", "some")
    require(not unknown, "only the fields of TUF", sorted(unknown))
    require(metadata.to_bytes() == role, "python-tuf's own form", "other bytes")
    # 2.
    require(now < signed.expires <= now + ROLE_LIFE + timedelta(days=1), "a life of 180 days",
            signed.expires)  # fmt: skip
    # 3.
    found, content = parse_plan(plan), parse_manifest(manifest)
    require((found.root, found.env, found.app) == (root, env, app), f"a plan for {name}",
            f"{found.env}-{found.app}")  # fmt: skip
    require(content.app == app, f"a manifest of {app}", content.app)
    require(
        (found.manifest.sha256, found.manifest.length) == (sha256_hex(manifest), len(manifest)),
        f"the plan's manifest {found.manifest.sha256[:16]}",
        sha256_hex(manifest)[:16],
    )
    sealed = check_secrets(secrets, content, root=root, env=env, app=app)
    # 4.
    plan_path = layout.plan_path(env, app)
    manifest_path = layout.manifest_path(env, app, found.manifest.sha256)
    wanted = dict(kept) | {
        manifest_path: TargetFile.from_data(manifest_path, manifest, ["sha256"]),
        plan_path: TargetFile.from_data(plan_path, plan, ["sha256"]),
        **targets_of(secrets, env=env, app=app),
    }
    require(
        {path: file.to_dict() for path, file in signed.targets.items()}
        == {path: file.to_dict() for path, file in wanted.items()},
        "plan, manifest, its secrets and the running manifest, nothing else",
        sorted(signed.targets),
    )
    others = [path for path in signed.targets if not layout.is_secret(path)]
    require(len(others) <= 1 + limits.MANIFESTS_PER_ROLE, "6 manifests", "more")
    # 5.
    require(found.seq == signed.version, f"seq {signed.version}, as the role's version", found.seq)
    require(signed.expires > read_time(found.not_after), "to outlive its plan", signed.expires)
    return Release(
        env=env,
        app=app,
        version=signed.version,
        sha256=sha256_hex(metadata.signed_bytes),
        plan=found,
        plan_digest=sha256_hex(plan),
        manifest=content,
        role_raw=role,
        plan_raw=plan,
        manifest_raw=manifest,
        secrets=sealed,
    )


def check_signature(release: Release, key: Key, signature: bytes) -> None:
    """Return only when `signature` is one of `key` over the release's role; raises Refused."""
    try:
        key.verify_signature(Signature(key.keyid, signature.hex()), release.signed_bytes)
    except (UnverifiedSignatureError, VerificationError, ValueError):
        raise Refused(
            f"signature of {key.keyid[:12]}",
            expected=f"one over role {release.role} v{release.version}",
            got="one that does not verify",
            reason="bad-signature",
        ) from None


def complete(release: Release, signatures: Mapping[str, str]) -> bytes:
    """Return the role's file with these signatures (key id -> hex)."""
    metadata = read_metadata(release.role_raw, Targets, release.role)
    for key, signature in sorted(signatures.items()):
        metadata.signatures[key] = Signature(key, signature)
    return metadata.to_bytes()


def check_complete(role: bytes, name: str, targets: Targets) -> None:
    """Return only when `role` carries its threshold of signatures, as nodes will count them.

    targets: the verified targets role, which delegates `name`. Raises Refused (`threshold`).
    """
    metadata = read_metadata(role, Targets, name)
    try:
        targets.verify_delegate(name, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):
        raise Refused(
            f"role {name}",
            expected="its threshold of signatures",
            got=f"{len(metadata.signatures)} that may not all verify",
            reason="threshold",
        ) from None
