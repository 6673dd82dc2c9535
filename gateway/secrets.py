"""The sealed secrets of a proposal: what the role must list, and who could open them.

Pure. Everybody who judges a proposal asks here: proposer, gateway, each approver. None of them can
read a secret; they can see whose it is, for which name and version, and to whom it was sealed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tuf.api.metadata import TargetFile, Targets

from embrasure import limits
from embrasure.bundle.manifest import Manifest
from embrasure.errors import Denied, Refused
from embrasure.secret.sealed import RECOVERY, Sealed, check_context, parse_sealed
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from gateway.metadata import read_metadata
from pki.recipients import Recipients


def listed_secrets(role: bytes, name: str) -> dict[str, int]:
    """Return digest -> length of each sealed file that a role's metadata lists; raises Refused."""
    targets = read_metadata(role, Targets, name).signed.targets
    found = {
        file.hashes.get("sha256", ""): file.length
        for path, file in targets.items()
        if layout.is_secret(path)
    }
    if len(found) > limits.SECRETS or any(n > limits.SECRET_BYTES for n in found.values()):
        raise Refused(
            f"role {name}", expected=f"{limits.SECRETS} secrets of {limits.SECRET_BYTES} bytes",
            got="more", reason="limit",
        )  # fmt: skip
    return found


def targets_of(secrets: Iterable[bytes], *, env: str, app: str) -> dict[str, TargetFile]:
    """Return how a role lists these sealed files."""
    paths = {layout.secret_path(env, app, sha256_hex(raw)): raw for raw in secrets}
    return {path: TargetFile.from_data(path, raw, ["sha256"]) for path, raw in paths.items()}


def check_secrets(
    secrets: Collection[bytes], manifest: Manifest, *, root: str, env: str, app: str
) -> tuple[Sealed, ...]:
    """Return the secrets of a release, sorted by name; raises Refused (`secrets`, `not-mine`).

    They are exactly those that the manifest names, each once, of this app, new enough.
    """
    found = {one.name: one for one in map(parse_sealed, secrets)}
    wanted = {one.name: one.min_version for one in manifest.secrets}
    if set(found) != set(wanted) or len(secrets) != len(found):
        raise Refused(
            f"secrets of {env}-{app}",
            expected=f"exactly those of the manifest: {', '.join(sorted(wanted)) or 'none'}",
            got=", ".join(sorted(found)) or "none",
            hint="embrasure secret seal makes one; release propose --secret FILE adds it",
            reason="secrets",
        )
    for name, sealed in found.items():
        check_context(sealed, root=root, env=env, app=app, name=name, min_version=wanted[name])
    return tuple(found[name] for name in sorted(found))


@dataclass(frozen=True, slots=True)
class Fit:
    """How the secrets fit the directory of today.

    lines: what an approver reads; warnings: nodes that will not be able to install; faults: why
    nobody may sign
    """

    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


NO_SECRETS = Fit(())


def fit(secrets: Collection[Sealed], to: Recipients, *, kept: Collection[str]) -> Fit:
    """Return who can open the secrets, and what is wrong with that.

    kept: target paths of the running release, whose bytes stay as they are
    """
    lines, warnings, faults = [], [], []
    for one in secrets:
        path = layout.secret_path(one.env, one.app, one.sha256)
        news = "as it runs now" if path in kept else "new"
        lines.append(f"{one.label}: {len(one.stanzas)} recipients, {news}, sha256:{one.sha256}")
        missing, extra = to.differences(one)
        there = {stanza.recipient for stanza in one.stanzas}
        faults += [f"{one.label} is sealed to {who}, who may not have it" for who in extra]
        for who in missing:
            if who in there:
                faults.append(
                    f"{one.label} is sealed to a key of {who} that is not the directory's"
                )
            elif who == RECOVERY:
                faults.append(f"{one.label} is not sealed to the recovery recipient")
            else:
                warnings.append(f"{who} cannot open {one.label} and will refuse the release")
    if secrets:
        lines += to.lines()
    return Fit(tuple(lines), (*faults, *warnings), tuple(faults))


def check_fit(found: Fit) -> None:
    """Return only when the secrets go to none but those who may have them; raises Denied."""
    if found.faults:
        raise Denied(
            "secrets",
            expected="recipients of the verified directory, each under its own key",
            got="; ".join(found.faults)[:500],
            untouched="nothing was signed",
            hint="embrasure secret rewrap, then propose again",
            reason="recipients",
        )


def by_digest(secrets: Mapping[str, int], held: Mapping[str, bytes]) -> list[bytes]:
    """Return the listed files out of those at hand; raises Refused (`missing-blobs`)."""
    found = []
    for digest, length in secrets.items():
        raw = held.get(digest, b"")
        if len(raw) != length or sha256_hex(raw) != digest:
            raise Refused(
                f"secret {digest[:16]}", expected="to be uploaded first", got="nothing",
                reason="missing-blobs",
            )  # fmt: skip
        found.append(raw)
    return found
