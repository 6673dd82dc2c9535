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
        view = self._repository.view()
        with self._lock:
            if self._held is None or self._held[0] is not view:
                self._held = (view, self._load(view))
            return self._held[1]

    def _load(self, view: View) -> dict[str, Policy]:
        found = {}
        repository = self._repository
        for role in view.roles:
            env = role.removeprefix("fleet-")
            if env != role:
                try:
                    found[env], _ = load_policy(
                        repository.client, view, repository.source(), env=env
                    )
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

    def check(self, person: str, env: str = "", *, right: Right = "view") -> str:
        """Return `person` when `env` (empty: any environment) gives him `right`; raises Denied.

        A certificate says who calls; that alone gives nobody a right.
        """
        held = self.rights(person)
        allowed = sorted(held)
        if not allowed or (env and env not in allowed):
            raise Denied(
                f"operator {person}",
                expected=f"a person of the policy of {env or 'an environment'}",
                got="a name that it does not list",
                hint="the security team adds people: embrasure trust app add",
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
