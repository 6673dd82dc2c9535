"""How a proposal's secrets fit the directory that the gateway publishes; approvers ask it again."""

from __future__ import annotations

from collections.abc import Sequence

from embrasure import limits
from embrasure.errors import NotFound
from embrasure.trust import layout
from embrasure.trust.directory import Entry, parse_recovery
from gateway.grounds import Grounds
from gateway.releases import Release
from gateway.repository import Repository
from gateway.secrets import NO_SECRETS, Fit, fit
from pki.recipients import recipients


def fit_in(
    repository: Repository, grounds: Grounds, entries: Sequence[Entry], release: Release
) -> Fit:
    """Return who could open the secrets of `release`, by the published files; raises Denied."""
    if not release.secrets:
        return NO_SECRETS
    role, path = layout.fleet_role(grounds.env), layout.recovery_path(grounds.env)
    try:
        recovery = parse_recovery(repository.document(role, path, limit=limits.RECOVERY_BYTES))
    except NotFound:
        recovery = None
    to = recipients(
        entries, policy=grounds.policy, denied=grounds.denied, recovery=recovery, app=grounds.app
    )
    kept = grounds.running.targets.targets if grounds.running else {}
    return fit(release.secrets, to, kept=kept)
