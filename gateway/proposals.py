"""Proposals: one open plan an app, k signatures of others than its proposer, one signed no.

What stands in the rows is believed for nothing but order in time: every blob is verified again
when it is used. Approval publishes nothing; a roll-out does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Row

from embrasure import limits
from embrasure.bundle.manifest import Manifest
from embrasure.bundle.store import BlobStore
from embrasure.clock import Clock, now, read_time
from embrasure.errors import Denied, Refused, shown
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.directory import ApprovalStatement
from embrasure.trust.plan import parse_plan
from embrasure.trust.view import View
from gateway import tables
from gateway.approval_rules import check_enough, check_policy, is_enough
from gateway.audit import Journal
from gateway.database import Database
from gateway.fitting import fit_in
from gateway.grounds import (
    Grounds,
    check_operator,
    check_reserved,
    load_entries,
    load_grounds,
)
from gateway.preview import check_evidence, preview
from gateway.proposal_rows import ProposalRows, no_such, wrong_state
from gateway.releases import Release, check_complete, check_release, check_signature, complete
from gateway.repository import Repository
from gateway.secrets import by_digest, check_fit, listed_secrets
from gateway.statements import Decision, check_living, check_not_proposer, check_statement


@dataclass(frozen=True, slots=True)
class Approved:
    """An approved release: role is the signed file, documents what it brings, by target path."""

    release: Release
    role: bytes
    documents: Mapping[str, bytes]


class Proposals:
    """All proposals of one gateway. Its methods are safe to call from threads."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        repository: Repository,
        blobs: BlobStore,
        *,
        clock: Clock = now,
    ) -> None:
        self._database, self._journal, self._repository = database, journal, repository
        self._blobs, self._clock = blobs, clock
        self.rows = ProposalRows(database, clock=clock)
        self._lock = threading.RLock()
        self._facts: tuple[View, dict[tuple[str, str], Grounds]] | None = None

    # --- verbs -------------------------------------------------------------------------------

    def reserve(self, env: str, app: str, *, person: str) -> int:
        """Return the seq and role version of the next plan; it is never given again."""
        with self._lock:
            grounds = self.grounds(env, app)
            check_operator(person, grounds)
            published = grounds.running.version if grounds.running else 0
            with (
                self._journal.act("reserve", grounds.role, actor=f"operator/{person}"),
                self._database.write() as connection,
            ):
                mine = f"reserved:{grounds.role}:{published}:{person}"
                check_reserved(self._database.take(connection, mine), grounds, person)
                return self._database.take(
                    connection, f"role:{grounds.role}", at_least=published + 1
                )

    def propose(
        self,
        env: str,
        app: str,
        role: bytes,
        plan: bytes,
        statement: bytes,
        *,
        person: str,
        supersede: bool = False,
    ) -> str:
        """Return the id of the open proposal of these bytes; the same bytes again: the same id.

        supersede: take the lock of the app from a plan that is not running
        """
        key = sha256_hex(plan)
        with self._acting("propose", key, person):
            self.rows.expire()
            # Until then an upload has no name of its own, and a crash would forget it.
            self._blobs.sync()
            if self.rows.find(key) is not None:
                return key[:16]
            grounds = self.grounds(env, app)
            release = self._check_new(role, plan, grounds)
            said = self._check_word(statement, release, grounds, "propose", person)
            check_living(said, release, now=self._clock())
            if said.person != release.plan.proposer:
                raise Denied(
                    "proposal", expected=f"the word of {release.plan.proposer}", got=said.person
                )
            self.rows.insert(release, statement, said, supersede=supersede)
            return key[:16]

    def approve(self, name: str, signature: bytes, statement: bytes, *, person: str) -> str:
        """Return the proposal's state after this person's signature counts."""
        with self._acting("approve", name, person):
            found = self.rows.open(name, tables.PENDING)
            grounds, release = self._release(found)
            said = self._check_word(statement, release, grounds, "approve", person)
            check_living(said, release, now=self._clock())
            check_not_proposer(said.person, release)
            check_signature(release, grounds.keys[said.key], signature)
            self.rows.add_approval(found.id, said, signature, statement)
            return self._decide(found, grounds, release)

    def reject(self, name: str, statement: bytes, *, person: str) -> str:
        """Return `rejected`: one signed no ends a proposal for good, until it has started."""
        with self._acting("reject", name, person, stop=True):
            found = self.rows.open(name, tables.PENDING, tables.APPROVED)
            grounds, release = self._release(found)
            said = self._check_word(statement, release, grounds, "reject", person)
            self.rows.end(found.id, tables.REJECTED, said, statement)
            return tables.REJECTED

    def withdraw(self, name: str, statement: bytes, *, person: str) -> str:
        """Return `withdrawn`: the proposer took it back before enough people had signed."""
        with self._acting("withdraw", name, person):
            found = self.rows.open(name, tables.PENDING)
            grounds, release = self._release(found)
            said = self._check_word(statement, release, grounds, "withdraw", person)
            if said.person != release.plan.proposer:
                raise Denied(
                    "proposal",
                    expected=f"its proposer {release.plan.proposer}",
                    got=said.person,
                    hint="anybody else may reject it",
                    reason="not-proposer",
                )
            self.rows.end(found.id, tables.WITHDRAWN, said, statement)
            return tables.WITHDRAWN

    @contextmanager
    def _acting(self, act: str, key: str, person: str, *, stop: bool = False) -> Iterator[None]:
        """One act at a time, in the journal before and after, refused ones too."""
        actor = f"operator/{person}"
        with self._lock, self._journal.act(act, shown(key), actor=actor, stop=stop):
            yield

    def approved(self, env: str, app: str, plan_digest: str) -> Approved:
        """Return the approved release with its signed role, verified once more.

        Raises Denied when too few signatures still count, it expired, or was never approved.
        """
        with self._lock:
            self.rows.expire()
            found = self.rows.find(plan_digest)
            if found is None or (found.env, found.app) != (env, app):
                raise no_such(plan_digest[:16])
            states = (tables.APPROVED, tables.IN_USE)
            if found.state not in states:
                raise wrong_state(found, states)
            grounds, release = self._release(found)
            signatures = self._counted(found, grounds, release)
            check_enough(signatures, release, grounds)
            role = complete(release, signatures)
            check_complete(role, release.role, grounds.targets)
            check_blobs(release.manifest, self._blobs)
            return Approved(release, role, release.documents)

    # --- reading -----------------------------------------------------------------------------

    def grounds(self, env: str, app: str) -> Grounds:
        """Return the verified facts about `<env>-<app>` as they are published now."""
        repository = self._repository
        with self._lock:
            view = repository.view()
            if self._facts is None or self._facts[0] is not view:
                self._facts = (view, {})
            known = self._facts[1]
            if (env, app) not in known:
                source = repository.source()
                known[env, app] = load_grounds(
                    repository.client, view, source, env=env, app=app,
                    denied=repository.denials.of(env),
                )  # fmt: skip
            return known[env, app]

    def find(self, name: str) -> Row[Any]:
        """Return the row whose id starts with `name`, as it is now; raises NotFound."""
        self.rows.expire()
        return self.rows.named(name)

    # --- checks ------------------------------------------------------------------------------

    def _check_new(self, role: bytes, plan: bytes, grounds: Grounds) -> Release:
        """Return the release when it may be proposed now; raises Refused, Denied."""
        named = parse_plan(plan).manifest
        at = self._clock()
        release = check_release(
            role, plan, self._manifest(named.sha256, named.length), root=grounds.root,
            env=grounds.env, app=grounds.app, kept=grounds.kept, now=at,
            secrets=self._secrets(role, grounds.role),
        )  # fmt: skip
        last = self._database.number(f"role:{grounds.role}")
        published = grounds.running.version if grounds.running else 0
        if not published < release.version <= last:
            raise Denied(
                f"role {grounds.role}", expected=f"a reserved version up to {last}",
                got=release.version, hint="propose again", reason="number",
            )  # fmt: skip
        if read_time(release.plan.created) > at + timedelta(seconds=limits.SKEW_SECONDS):
            raise Refused("plan", expected="a plan of the past", got=release.plan.created)
        check_policy(release, grounds)
        repository = self._repository
        entries = load_entries(
            repository.client, repository.view(), repository.source(), grounds.policy
        )
        check_evidence(release.plan, preview(release.plan, entries))
        check_fit(fit_in(repository, grounds, entries, release))
        check_blobs(release.manifest, self._blobs)
        return release

    def _check_word(
        self, statement: bytes, release: Release, grounds: Grounds, decision: Decision, person: str
    ) -> ApprovalStatement:
        said = check_statement(statement, release, grounds, decision=decision, now=self._clock())
        self._check_caller(said.person, person)
        return said

    @staticmethod
    def _check_caller(said: str, person: str) -> None:
        # A statement carried by somebody else would put words of one into the log of another.
        if said != person:
            raise Denied("caller", expected=f"{said}, who signed it", got=person, reason="caller")

    def _release(self, found: Row[Any]) -> tuple[Grounds, Release]:
        """Return the facts now, and the row's release worked out from its bytes again."""
        grounds = self.grounds(found.env, found.app)
        named = parse_plan(bytes(found.plan)).manifest
        kept = grounds.kept
        if grounds.running and grounds.running.plan_digest == found.plan_digest:
            # It is published: what it kept beside itself is in its own verified role.
            own = {
                layout.plan_path(found.env, found.app),
                layout.manifest_path(found.env, found.app, named.sha256),
            }
            listed = grounds.running.targets.targets.items()
            kept = {k: v for k, v in listed if k not in own and not layout.is_secret(k)}
        release = check_release(
            bytes(found.role), bytes(found.plan), self._manifest(named.sha256, named.length),
            root=grounds.root, env=found.env, app=found.app, kept=kept, now=self._clock(),
            secrets=self._secrets(bytes(found.role), grounds.role),
        )  # fmt: skip
        if release.plan_digest != found.plan_digest:
            raise Refused("proposal", expected=found.plan_digest, got=release.plan_digest)
        return grounds, release

    def _secrets(self, role: bytes, name: str) -> list[bytes]:
        """The sealed files that a role lists, as they were uploaded; nobody here can open them."""
        found = listed_secrets(role, name)
        held = {
            digest: b"".join(self._blobs.read(digest))
            for digest, length in found.items()
            if self._blobs.has(digest, length=length)
        }
        return by_digest(found, held)

    def _manifest(self, digest: str, length: int) -> bytes:
        if length > limits.MANIFEST_BYTES or not self._blobs.has(digest, length=length):
            raise Refused(
                f"manifest {digest[:16]}", expected="to be uploaded first", got="nothing",
                reason="missing-blobs",
            )  # fmt: skip
        raw = b"".join(self._blobs.read(digest))
        if sha256_hex(raw) != digest:
            raise Refused(f"manifest {digest[:16]}", expected="its bytes", got="others")
        return raw

    def _counted(self, found: Row[Any], grounds: Grounds, release: Release) -> dict[str, str]:
        """Return key id -> signature of each person whose word and signature still count."""
        counted: dict[str, tuple[str, str]] = {}
        for signature, envelope in self.rows.signed(found.id):
            try:
                said = check_statement(
                    envelope, release, grounds, decision="approve", now=self._clock()
                )
                check_not_proposer(said.person, release)
                check_signature(release, grounds.keys[said.key], bytes.fromhex(signature))
            except (Refused, Denied, ValueError):
                continue  # denied since, no operator any more, or a changed row: it counts not
            counted[said.person] = (said.key, signature)
        return dict(counted.values())

    def _decide(self, found: Row[Any], grounds: Grounds, release: Release) -> str:
        """Return the state after counting; enough signatures make one complete, checked role."""
        signatures = self._counted(found, grounds, release)
        if not is_enough(signatures, grounds):
            return tables.PENDING
        check_complete(complete(release, signatures), release.role, grounds.targets)
        self.rows.approve(found.id)
        return tables.APPROVED


def check_blobs(manifest: Manifest, blobs: BlobStore) -> None:
    """Return only when every file of the release is stored; raises Refused (`missing-blobs`)."""
    missing = [d for d, length in manifest.blobs().items() if not blobs.has(d, length=length)]
    if missing:
        raise Refused(
            "release",
            expected="all its files to be uploaded",
            got=f"{len(missing)} missing",
            hint="propose again: the upload goes on where it stopped",
            reason="missing-blobs",
        )
