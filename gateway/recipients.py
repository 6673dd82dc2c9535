"""Who may open an app's secrets, as this machine verifies it from its pinned root."""

from __future__ import annotations

from collections.abc import Sequence

from embrasure import limits
from embrasure.bundle.manifest import Manifest
from embrasure.errors import Misuse, NotFound
from embrasure.secret.sealed import Sealed, parse_sealed
from embrasure.trust import layout
from embrasure.trust.directory import Recovery, parse_recovery
from gateway.client import AdminClient
from gateway.grounds import Grounds
from gateway.secrets import NO_SECRETS, Fit, fit
from pki.recipients import Recipients, recipients


def recovery_of(client: AdminClient, env: str) -> Recovery | None:
    """Return the verified recovery recipient of an environment, None when it has none."""
    role, path = layout.fleet_role(env), layout.recovery_path(env)
    view = client.view([role])
    try:
        raw = client.trust.target(view, role, path, client.source(), limit=limits.RECOVERY_BYTES)
    except NotFound:
        return None
    return parse_recovery(raw)


def from_gateway(client: AdminClient, grounds: Grounds) -> Recipients:
    """Return who may open secrets of the app; raises Denied.

    The gateway only brings files: each is verified here against `fleet-<env>`, and the keys that
    its own database may hold are never asked for.
    """
    return recipients(
        client.entries(grounds.env),
        policy=grounds.policy,
        denied=grounds.denied,
        recovery=recovery_of(client, grounds.env),
        app=grounds.app,
    )


def fit_of(client: AdminClient, grounds: Grounds, secrets: Sequence[Sealed]) -> Fit:
    """Return how the secrets of a proposal fit the directory that this machine verifies."""
    if not secrets:
        return NO_SECRETS
    kept = grounds.running.targets.targets if grounds.running else {}
    return fit(secrets, from_gateway(client, grounds), kept=kept)


def running_secrets(client: AdminClient, grounds: Grounds) -> dict[str, tuple[Sealed, bytes]]:
    """Return the secrets of the release that is published, verified, by name."""
    if grounds.running is None:
        return {}
    view, source = client.view([grounds.role]), client.source()
    found = {}
    for path in grounds.running.targets.targets:
        if layout.is_secret(path):
            limit = limits.SECRET_BYTES
            raw = client.trust.target(view, grounds.role, path, source, limit=limit)
            sealed = parse_sealed(raw)
            found[sealed.name] = (sealed, raw)
    return found


def chosen(
    client: AdminClient, grounds: Grounds, manifest: Manifest, given: Sequence[bytes]
) -> list[bytes]:
    """Return the sealed file of each secret that the manifest names; raises Misuse.

    given: those of the command line; what is not among them stays as the running release has it
    """
    names = {one.name for one in manifest.secrets}
    found = {parse_sealed(raw).name: raw for raw in given}
    strange = sorted(set(found) - names)
    if strange or len(found) != len(given):
        raise Misuse("--secret", expected=f"secrets that the manifest names: {sorted(names)}",
                     got=strange or "a name twice")  # fmt: skip
    missing = names - set(found)
    running = running_secrets(client, grounds) if missing else {}
    for name in sorted(missing):
        if name not in running:
            raise Misuse(
                f"secret {name}", expected="--secret FILE, or one that runs already", got="none",
                hint=f"embrasure secret seal {name} --env {grounds.env} --app {grounds.app}",
            )  # fmt: skip
        found[name] = running[name][1]
    return [found[name] for name in sorted(found)]
