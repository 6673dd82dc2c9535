"""What each security role is: how long it lives, which keys may sign it, how it is delegated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Targets

from embrasure import limits
from embrasure.errors import Misuse, NotSupported
from embrasure.trust import layout
from pki import keyfile, people

DAY = 86400


@dataclass(frozen=True, slots=True)
class Kind:
    """What kind of role a name is.

    family: root, targets, revocations, fleet, gates or app; purpose: of its keys; life_s: seconds
    """

    family: str
    env: str
    app: str
    purpose: keyfile.Purpose
    life_s: int


def kind_of(role: str) -> Kind:
    """Return the kind of `role`; raises Misuse when no role can have that name."""
    if role == layout.ROOT or role == layout.TARGETS:
        return Kind(role, "", "", "security", 365 * DAY)
    if role == layout.REVOCATIONS:
        return Kind(role, "", "", "security", 30 * DAY)
    head, _, rest = role.partition("-")
    if head in ("fleet", "gates") and layout.ENV.fullmatch(rest) and rest not in layout.RESERVED:
        purpose: keyfile.Purpose = "security" if head == "fleet" else "online"
        return Kind(head, rest, "", purpose, (180 if head == "fleet" else 7) * DAY)
    env_fits = layout.ENV.fullmatch(head) and head not in layout.RESERVED
    if env_fits and layout.APP.fullmatch(rest):
        return Kind("app", head, rest, "operator", 180 * DAY)
    raise Misuse("role", expected="a role such as root, targets, fleet-prod", got=role)


def check_drafted(role: str) -> Kind:
    """Return the kind of a role that is drafted and signed in the trust folder; raises Misuse."""
    kind = kind_of(role)
    if kind.family == "app":
        raise NotSupported(
            role,
            expected="a role of the security team",
            got="an approval role",
            hint="operators sign it with `embrasure approve`",
        )
    if kind.family == "gates":
        raise Misuse(role, expected="a role of the security team", got="an online role")
    return kind


def patterns(role: str) -> list[str]:
    """Return the target paths that a delegated role may list."""
    kind = kind_of(role)
    return layout.role_patterns(role, kind.env, kind.app)


def is_drafted(role: str) -> bool:
    """Return whether a role of this name is drafted and signed in the trust folder."""
    try:
        check_drafted(role)
    except (Misuse, NotSupported):
        return False
    return True


_ORDER = {"revocations": 0, "fleet": 1, "app": 2, "gates": 3}


def delegate(targets: Targets, role: str, keys: Sequence[SSlibKey], *, threshold: int) -> None:
    """`targets` now delegates `role`, terminating, to `threshold` of `keys`, in the one order."""
    check_threshold(role, keys, threshold)
    known = targets.delegations or Delegations(keys={}, roles={})
    found = dict(known.roles or {})
    if role in found:
        raise Misuse(
            role, expected="a new role", got="one that is delegated already",
            hint="embrasure trust app set changes its rules, pki keyholder its people",
        )  # fmt: skip
    found[role] = DelegatedRole(
        role, [key.keyid for key in keys], threshold, terminating=True, paths=patterns(role)
    )
    for key in keys:
        known.keys.setdefault(key.keyid, key)
    ordered = sorted(found, key=lambda name: (_ORDER[kind_of(name).family], name))
    targets.delegations = Delegations(
        keys=dict(known.keys), roles={name: found[name] for name in ordered}
    )


def check_threshold(role: str, keys: Sequence[SSlibKey], threshold: int) -> None:
    """Return only when 1 <= threshold <= distinct keys <= 32; raises Misuse."""
    people.check_distinct(list(keys))
    if not 1 <= threshold <= len(keys) <= limits.KEYS_PER_ROLE:
        raise Misuse(
            role, expected="1 <= threshold <= keys <= 32", got=f"{threshold} of {len(keys)}"
        )


def in_order(roles: Iterable[str]) -> list[str]:
    """Return role names so that each comes after the role that delegates it."""
    first = {layout.ROOT: 0, layout.TARGETS: 1}
    return sorted(roles, key=lambda name: (first.get(name, 2), name))
