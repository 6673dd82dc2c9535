"""Who a caller is: a TLS name that the verified policy of an environment lists as a person."""

from __future__ import annotations

import threading

from embrasure.errors import Denied, EmbrasureError
from embrasure.trust.policy import Policy
from embrasure.trust.view import View
from gateway.grounds import load_policy
from gateway.repository import Repository
from gateway.rights import Right, rights_of


class People:
    """The policies of every environment as they are published now."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._held: tuple[View, dict[str, Policy]] | None = None

    def policies(self) -> dict[str, Policy]:
        """Return environment -> policy; one that cannot be read is left out, and so are its
        people.
        """
        return self._now()[1]

    def denied_keys(self) -> frozenset[str]:
        """Return what any environment denies: a key that was stolen is stolen everywhere."""
        return self._repository.denials.everywhere().keys

    def _now(self) -> tuple[View, dict[str, Policy]]:
        view = self._repository.view()
        with self._lock:
            if self._held is None or self._held[0] is not view:
                self._held = (view, self._load(view))
            return self._held

    def _load(self, view: View) -> dict[str, Policy]:
        found: dict[str, Policy] = {}
        repository = self._repository
        for role in view.roles:
            env = role.removeprefix("fleet-")
            if env != role:
                try:
                    source = repository.source()
                    found[env], _ = load_policy(repository.client, view, source, env=env)
                except EmbrasureError:
                    continue
        return found

    def environments(self, person: str) -> list[str]:
        """Return the environments whose policy lists `person`."""
        return sorted(
            env
            for env, policy in self.policies().items()
            if any(listed.id == person for listed in policy.people)
        )

    def rights(self, person: str) -> dict[str, frozenset[Right]]:
        """Return environment -> what `person` may do there."""
        return {
            env: rights_of(listed.groups)
            for env, policy in self.policies().items()
            for listed in policy.people
            if listed.id == person
        }

    def _keys_of(self, person: str) -> frozenset[str]:
        lists = (
            listed.keys
            for policy in self.policies().values()
            for listed in policy.people
            if listed.id == person
        )
        return frozenset[str]().union(*lists)

    def check(self, person: str, env: str = "", *, right: Right = "view") -> str:
        """Return `person` when `env` (empty: any environment) gives him `right`; raises Denied.

        A certificate says who calls; that alone gives nobody a right.
        """
        held = self.rights(person)
        allowed = sorted(held)
        check_has_key(person, self._keys_of(person), self.denied_keys())
        if not allowed or (env and env not in allowed):
            raise Denied(
                f"operator {person}",
                expected=f"an environment that lists him: {', '.join(allowed) or 'none does'}",
                got=env or "all of them",
                hint="a typo? The security team adds people: embrasure trust app add",
                reason="not-a-person",
            )
        if not any(right in rights for where, rights in held.items() if env in ("", where)):
            raise Denied(
                f"operator {person}",
                expected=f"the right to {right} in {env or 'an environment'}",
                got="groups that do not give it",
                hint="embrasure whoami shows your rights; the policy's groups give them",
                reason="no-right",
            )
        return person


def check_has_key(person: str, keys: frozenset[str], denied: frozenset[str]) -> None:
    """Return only when not every key of the person is denied.

    Whoever stole the key may hold the TLS certificate, too, which lives for hours. A person without
    any key only ever looks, and has none to lose.
    """
    if keys and keys <= denied:
        raise Denied(
            f"operator {person}",
            expected="a person with a key that is not denied",
            got="denied keys only",
            hint="a new key, and a policy that names it: embrasure pki keyholder replace --help",
            reason="denied",
        )
