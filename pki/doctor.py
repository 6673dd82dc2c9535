"""What can be wrong with a trust folder: loose keys, half-made drafts, ends, a clock behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from embrasure import findings as look
from embrasure import fs, limits
from embrasure.advice import verb
from embrasure.clock import now, read_time
from embrasure.errors import EmbrasureError
from embrasure.findings import Finding
from embrasure.trust import layout
from embrasure.trust.policy import parse_revocations
from pki import drafts, inventory, keyfile, roles
from pki.folder import TrustFolder
from pki.verify import Verified

_KEYS = ("keys", "online", "ca")


def findings(folder: Path, at: datetime) -> list[Finding]:
    """Return what is wrong with the trust folder; raises Refused when it does not verify."""
    trust = TrustFolder.open(folder)
    verified = trust.verify(now()) if layout.ROOT in trust.roles() else []
    keys = [file for name in _KEYS for file in sorted((folder / name).glob("*.key"))]
    return [
        *look.private(keys),
        *look.unshared([folder / "fleet.toml", folder / "anchor.json"]),
        *look.disk(folder),
        *_half_made(trust, keys),
        *look.unfinished(folder, fix=""),
        *look.clock(at, [*_signed(verified), *_revoked(trust)]),
        *look.ends(lambda: inventory.items(folder), at),
    ]


def _half_made(trust: TrustFolder, keys: list[Path]) -> Iterator[Finding]:
    path = trust.path
    if layout.ROOT not in trust.roles():
        yield Finding(
            "half-made", str(path), "no root is in force yet", verb("trust", "show", path)
        )
    for role in sorted(file.name for file in (path / "drafts").glob("*") if file.is_dir()):
        if not roles.is_drafted(role):
            yield Finding(
                "half-made", role, "is no role's draft", look.typed("ls", f"{path}/drafts/{role}")
            )
        elif not (path / "drafts" / role / drafts.METADATA).exists():
            discard = verb("trust", "discard", path, "--role", role)
            yield Finding("half-made", f"draft of {role}", "holds no metadata", discard)
    for file in keys:
        if file.name == "collect.key":
            continue
        try:
            keyfile.parse(fs.read_file(file, limit=limits.KEYFILE_BYTES))
        except EmbrasureError as problem:
            yield Finding("half-made", str(file), str(problem), verb("keys", "show", file))


def _signed(verified: list[Verified]) -> Iterator[tuple[str, datetime]]:
    """Yield when each role was signed, at the latest: its end less its life."""
    for one in verified:
        life = timedelta(seconds=roles.kind_of(one.role).life_s)
        yield f"role {one.role} v{one.version}", one.expires - life


def _revoked(trust: TrustFolder) -> Iterator[tuple[str, datetime]]:
    if trust.held(layout.REVOCATIONS) is None:
        return
    for path, raw in trust.documents(layout.REVOCATIONS).items():
        yield path, read_time(parse_revocations(raw).issued)
