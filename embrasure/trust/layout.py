"""Names and paths of a repository: roles, target paths, file paths; nothing else may spell them.

A repository is a folder that any web server can serve:
`metadata/<N>.<role>.json`, `metadata/timestamp.json`, `targets/<dir>/<sha256>.<name>`,
`blobs/<aa>/<sha256>`.

Beside them a server may offer what is no file: `packs/<env>/<app>/<sha256>`, the small blobs of the
manifest with that digest, one after the other (`bundle/pack.py`). Over HTTP it may say beside the
timestamp how far its root steps go: who looks for the next one then needs no second request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from embrasure.errors import Misuse, Refused

ENV = re.compile(r"[a-z][a-z0-9]{0,15}")
APP = re.compile(r"[a-z][a-z0-9-]{0,47}")
NODE_ID = re.compile(r"n-[a-z2-7]{26}")
APPROVAL = re.compile(r"[a-z][a-z0-9]{0,15}-[a-z][a-z0-9-]{0,47}")  # `<env>-<app>`
IDENTITY_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
DIGEST = re.compile(r"[0-9a-f]{64}")
# An app of environment `fleet` would be the role `fleet-<app>`; so these are no environments.
RESERVED = frozenset({"root", "targets", "snapshot", "timestamp", "revocations", "fleet", "gates"})

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
REVOCATIONS = "revocations"
TOP_ROLES = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)

# Which trust files there are: unsigned, a hint (`listing.py`).
METADATA = "metadata/"
TRUST_LISTING = "metadata/trust.json"

ROOT_HEADER = "Embrasure-Root"  # of an answer with the timestamp: its newest root version

_FILE = re.compile(
    r"metadata/(?:timestamp|trust|[1-9][0-9]{0,8}\.[a-z][a-z0-9-]{0,80})\.json"
    r"|targets/(?:[a-z0-9-]{1,48}/){1,3}[0-9a-f]{64}\.[a-z0-9-]{1,80}\.json"
    r"|blobs/[0-9a-f]{2}/[0-9a-f]{64}"
)
_PACK = re.compile(rf"packs/({ENV.pattern})/({APP.pattern})/({DIGEST.pattern})")


def check_env(env: str) -> str:
    """Return `env` when it is an environment's name; raises Misuse."""
    if not ENV.fullmatch(env) or env in RESERVED:
        raise Misuse(
            "environment",
            expected="a lower-case name of 1-16 letters and digits that is not reserved",
            got=env,
            hint=f"reserved: {', '.join(sorted(RESERVED))}",
        )
    return env


def check_app(app: str) -> str:
    """Return `app` when it is an app's name; raises Misuse."""
    if not APP.fullmatch(app):
        raise Misuse("app", expected="a lower-case name of 1-48 letters, digits, hyphens", got=app)
    return app


def fleet_role(env: str) -> str:
    """Return the role that says who is a node of `env`, and its policy."""
    return f"fleet-{env}"


def gates_role(env: str) -> str:
    """Return the online role that opens waves in `env`."""
    return f"gates-{env}"


def app_role(env: str, app: str) -> str:
    """Return the approval role: k of n operators over the plan of one app in one environment."""
    return f"{env}-{app}"


def is_approval_role(role: str) -> bool:
    """Return whether `role` has the name of an approval role: no reserved word in front."""
    return APPROVAL.fullmatch(role) is not None and role.partition("-")[0] not in RESERVED


def policy_path(env: str) -> str:
    """Return the target path of the environment's policy."""
    return f"fleet/{env}/policy.json"


def tls_path(env: str) -> str:
    """Return the target path of the TLS trust bundle."""
    return f"fleet/{env}/tls.json"


def recovery_path(env: str) -> str:
    """Return the target path of the offline recipient of every secret."""
    return f"fleet/{env}/recovery.json"


def shard_path(env: str, shard: str) -> str:
    """Return the target path of one directory shard."""
    return f"fleet/{env}/dir/{shard}.json"


def revocations_path(env: str) -> str:
    """Return the target path of the environment's revocations."""
    return f"revoked/{env}.json"


def plan_path(env: str, app: str) -> str:
    """Return the target path of the current plan."""
    return f"{env}/{app}/plan.json"


def manifest_path(env: str, app: str, digest: str) -> str:
    """Return the target path of a manifest."""
    return f"{env}/{app}/m-{digest}.json"


def secret_path(env: str, app: str, digest: str) -> str:
    """Return the target path of a sealed secret."""
    return f"{env}/{app}/s-{digest}.json"


def is_secret(path: str) -> bool:
    """Return whether a target path of an approval role is a sealed secret's."""
    return path.rpartition("/")[2].startswith("s-")


def gate_path(env: str, app: str) -> str:
    """Return the target path of the gate."""
    return f"gates/{env}/{app}.json"


def role_patterns(role: str, env: str, app: str = "") -> list[str]:
    """Return the paths a delegated role may name (TUF: `*` does not cross `/`)."""
    if role == REVOCATIONS:
        return ["revoked/*.json"]
    if role == fleet_role(env):
        return [f"fleet/{env}/*.json", f"fleet/{env}/dir/*.json"]
    if role == gates_role(env):
        return [f"gates/{env}/*.json"]
    return [f"{env}/{app}/*.json"]


def metadata_file(role: str, version: int) -> str:
    """Return the repository path of one metadata file."""
    return "metadata/timestamp.json" if role == TIMESTAMP else f"metadata/{version}.{role}.json"


def target_file(path: str, digest: str) -> str:
    """Return the repository path of a target file (consistent snapshots: the digest in front)."""
    folder, _, name = path.rpartition("/")
    return f"targets/{folder}/{digest}.{name}"


def blob_file(digest: str) -> str:
    """Return the repository path of a blob, named by the SHA-256 of its bytes."""
    return f"blobs/{digest[:2]}/{digest}"


def pack_file(env: str, app: str, digest: str) -> str:
    """Return the path of the small blobs of one manifest, one after the other."""
    return f"packs/{env}/{app}/{digest}"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a repository path names."""

    metadata: bool = False
    target: bool = False
    blob: bool = False


@dataclass(frozen=True, slots=True)
class Pack:
    """Whose small blobs are asked for. manifest: its repository path; digest: its SHA-256."""

    manifest: str
    digest: str


def parse_file(path: str) -> Kind:
    """Return what `path` names; raises Refused `bad-path` for anything but a repository path.

    The one gate in front of every store: a path that passes cannot leave its folder.
    """
    if not path.isascii() or len(path) > 400 or not _FILE.fullmatch(path):
        raise Refused("path", expected="a repository path", got=path, reason="bad-path")
    if path.startswith("blobs/") and path[6:8] != path[9:11]:
        raise Refused("path", expected="a blob in its own folder", got=path, reason="bad-path")
    return Kind(
        metadata=path.startswith(METADATA),
        target=path.startswith("targets/"),
        blob=path.startswith("blobs/"),
    )


def parse_pack(path: str) -> Pack | None:
    """Return what a pack's path names; None for any other path. Nothing is stored under it."""
    found = _PACK.fullmatch(path) if path.isascii() else None
    if found is None or found[1] in RESERVED:
        return None
    env, app, digest = found.groups()
    return Pack(target_file(manifest_path(env, app, digest), digest), digest)


def parse_wanted(path: str) -> Kind:
    """Return what `path` names; raises Refused `bad-path` for what nobody may ask a source for.

    The gate of those who ask: a pack may be asked for, and is never written.
    """
    return Kind() if parse_pack(path) is not None else parse_file(path)
