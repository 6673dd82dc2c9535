"""What the trust folder says: roles in force, drafts that wait, and whether all of it verifies."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from embrasure import fs, limits
from embrasure.clock import write_time
from embrasure.errors import Misuse, Refused
from embrasure.fingerprint import groups, words
from embrasure.trust.layout import ROOT
from pki import acting, signing, store
from pki.approvers import approvers
from pki.folder import TrustFolder
from pki.verify import Verified


def show(trust: TrustFolder, *, role: str | None, at: datetime) -> tuple[dict[str, object], str]:
    """Return roles and drafts for `--json`, and for a person; raises Refused, Misuse."""
    found = trust.verify(at) if ROOT in trust.roles() else []
    drafts = trust.drafts()
    apps = approvers(trust)
    if role is not None:
        found = [one for one in found if one.role == role]
        drafts = [draft for draft in drafts if draft.role == role]
        apps = [app for app in apps if app.role == role]
        if not found and not drafts and not apps:
            raise Misuse(role, expected="a role of this trust folder", got="none")
    body: dict[str, object] = {
        "root": trust.root_id,
        "domain": trust.domain,
        "roles": [one.as_json() for one in found],
        "approvals": [app.as_json() for app in apps],
        "drafts": [acting.draft_json(trust, draft) for draft in drafts],
    }
    lines = [*_fleet(trust), *(_line(one) for one in found), *(app.line() for app in apps)]
    for draft in drafts:
        if role is not None:
            lines.append(signing.review(draft, pinned=trust.root_id, at=at).text)
        else:
            needed, _, others = signing.missing(trust, draft)
            who = f"{needed} more of {', '.join(others)}" if needed else "ready to merge"
            lines.append(f"draft {draft.role} v{draft.version} sha256:{draft.digest}: {who}")
    return body, "\n".join(lines)


def verify_all(
    trust: TrustFolder, *, pinned: Path | None, at: datetime
) -> tuple[dict[str, object], str]:
    """Return what was verified; raises Refused for a false, missing or expired file."""
    if pinned is not None:
        raw = fs.read_file(pinned, limit=limits.ROOT_BYTES)
        root_id = store.signed_digest(store.parse_metadata(raw, ROOT))
        if root_id != trust.root_id:
            raise Refused(
                str(trust.path),
                expected=f"fleet {root_id[:16]}",
                got=f"fleet {trust.root_id[:16]}",
                reason="identity",
            )
    found = trust.verify(at)
    late = [one for one in found if one.expired]
    if late:
        raise Refused(
            late[0].role,
            expected="a version that has not expired",
            got=f"v{late[0].version}, expired {write_time(late[0].expires)}",
            hint=f"embrasure trust renew {trust.path} --role {late[0].role}",
            reason="expired",
        )
    body: dict[str, object] = {
        "root": trust.root_id,
        "roles": [one.as_json() for one in found],
        "ok": True,
    }
    return body, "\n".join([*_fleet(trust), *map(_line, found)])


def _fleet(trust: TrustFolder) -> list[str]:
    return [f"fleet {groups(trust.root_id)}", f"in words: {words(trust.root_id)}"]


def _line(one: Verified) -> str:
    late = " EXPIRED" if one.expired else ""
    return (
        f"{one.role} v{one.version}: {one.threshold} of {', '.join(one.owners)}; "
        f"signed by {', '.join(one.signers)}; until {write_time(one.expires)}{late}"
    )
