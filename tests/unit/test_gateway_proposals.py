"""Proposals: k others sign exactly these bytes; one no ends it; one open plan an app."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner
from sqlalchemy import insert, update
from tuf.api.metadata import Metadata, Targets

from embrasure.errors import Denied, EmbrasureError, NotFound, Refused
from embrasure.trust.policy import Person
from gateway import tables
from gateway.adopt import adopt
from gateway.denials import Held
from gateway.grounds import Grounds
from gateway.proposal_rows import begin, close
from gateway.records import parse_event
from gateway.statements import Decision, check_statement
from tests.ablation import Ablation
from tests.simulate.gateway import Draft, SimGateway, trust_files
from tests.simulate.metadata import sign_metadata
from tests.simulate.releases import make_release
from tests.simulate.repository import SimRepository


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def go(self, **by: float) -> None:
        self.at += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gateway(tmp_path: Path, clock: Clock) -> Iterator[SimGateway]:
    sim = SimRepository(clock=clock)
    sim.add_app("shop", operators=("anna", "ben", "carl"), threshold=2)
    sim.add_app("blog", operators=("anna", "ben", "carl"), threshold=2)
    for _ in range(3):
        sim.add_node()
    sim.publish()
    opened = SimGateway(tmp_path, sim)
    yield opened
    opened.close()


@pytest.fixture
def draft(gateway: SimGateway) -> Draft:
    found = gateway.draft()
    gateway.propose(found)
    return found


def state_of(gateway: SimGateway, draft: Draft) -> str:
    return str(gateway.proposals.find(draft.release.plan_digest[:16]).state)


def approve_all(gateway: SimGateway, draft: Draft) -> None:
    assert gateway.approve(draft, "ben") == tables.PENDING
    assert gateway.approve(draft, "carl") == tables.APPROVED


def test_two_others_approve_and_the_role_is_complete(gateway: SimGateway, draft: Draft) -> None:
    approve_all(gateway, draft)
    approved = gateway.proposals.approved("dev", "shop", draft.release.plan_digest)
    gateway.repository.stage_role(approved.role, approved.documents)
    view = gateway.repository.publish()
    role = view.role("dev-shop")
    assert role is not None
    assert len(role.signers) == 2
    # After a crash the same act is done again: same bytes, still verified.
    again = gateway.proposals.approved("dev", "shop", draft.release.plan_digest)
    assert again.role == approved.role


@pytest.mark.misuse
def test_the_proposers_own_approval_is_refused(
    gateway: SimGateway, draft: Draft, ablation: Ablation
) -> None:
    with pytest.raises(Denied) as caught:
        gateway.approve(draft, "anna")
    assert caught.value.reason == "own-proposal"
    gateway.approve(draft, "ben")
    assert state_of(gateway, draft) == tables.PENDING
    with ablation("the exclusion of the proposer") as attack:
        # Without the guard he would be the second of two.
        attack.without("gateway.proposals.check_not_proposer")
        attack.succeeded(gateway.approve(draft, "anna") == tables.APPROVED)


@pytest.mark.misuse
def test_a_person_counts_once_whatever_keys_he_has(
    gateway: SimGateway, draft: Draft, clock: Clock, ablation: Ablation
) -> None:
    assert gateway.approve(draft, "ben") == tables.PENDING
    assert gateway.approve(draft, "ben") == tables.PENDING
    second = CryptoSigner.generate_ed25519()
    sim = gateway.sim
    sim.targets.add_key(second.public_key, "dev-shop")
    people = [
        Person(id=p.id, keys=(*p.keys, second.public_key.keyid), groups=()) if p.id == "ben" else p
        for p in sim.policies["dev"].people
    ]
    sim.set_policy(people=tuple(people))
    sim.touch("targets")
    sim.publish()
    adopt_all(gateway)
    first = sim.people["ben"].signer
    sim.people["ben"] = replace(sim.people["ben"], signer=second)
    assert gateway.approve(draft, "ben") == tables.PENDING
    assert gateway.proposals.rows.persons(draft.release.plan_digest[:16]) == ["ben"]
    with ablation("persons, not keys, that are counted") as attack:
        # A TUF client counts keys: his two would be enough.
        role = Metadata[Targets].from_bytes(draft.release.role_raw).signed
        both = Metadata[Targets].from_bytes(sign_metadata(role, [first, second]))
        targets = gateway.grounds().targets
        attack.succeeded(
            targets.get_verification_result("dev-shop", both.signed_bytes, both.signatures).verified
        )


def adopt_all(gateway: SimGateway) -> dict[str, int]:
    return adopt(gateway.repository, trust_files(gateway.sim), force=False)


@pytest.mark.misuse
def test_a_signature_over_other_bytes_is_refused(
    gateway: SimGateway, draft: Draft, ablation: Ablation
) -> None:
    name = draft.release.plan_digest[:16]
    word = gateway.statement(draft.release, "ben", "approve")
    other = bytes.fromhex(gateway.sim.person("ben").signer.sign(b"other bytes").signature)
    with pytest.raises(Refused) as caught:
        gateway.proposals.approve(name, other, word, person="ben")
    assert caught.value.reason == "bad-signature"
    with ablation("the signature over this role") as attack:
        # It would stand as an approval, until the complete role is checked.
        attack.without("gateway.proposals.check_signature")
        attack.succeeded(gateway.proposals.approve(name, other, word, person="ben"))
        with pytest.raises(Refused, match="threshold"):
            gateway.approve(draft, "carl")


def test_a_strangers_word_counts_for_nothing(gateway: SimGateway, draft: Draft) -> None:
    gateway.sim.person("mallory")
    with pytest.raises(Denied):
        gateway.statement(draft.release, "mallory", "approve")


@pytest.mark.misuse
@pytest.mark.parametrize("lie", ["other release", "other decision", "other caller"])
def test_a_word_counts_only_as_what_its_person_said(
    lie: str, gateway: SimGateway, draft: Draft, ablation: Ablation
) -> None:
    name, person = draft.release.plan_digest[:16], "ben"
    signature = bytes.fromhex(
        gateway.sim.person("ben").signer.sign(draft.release.signed_bytes).signature
    )
    word, other = gateway.statement(draft.release, "ben", "approve"), draft
    if lie == "other release":
        other = gateway.draft("blog", by="carl")
        word = gateway.statement(other.release, "ben", "approve")
    elif lie == "other decision":
        word = gateway.statement(draft.release, "ben", "reject")
    else:
        person = "carl"
    with pytest.raises((Denied, Refused)):
        gateway.proposals.approve(name, signature, word, person=person)
    assert gateway.proposals.rows.persons(name) == []

    def as_it_is(raw: bytes, _: object, grounds: Grounds, *, decision: str, now: datetime) -> Any:
        said: Decision = "reject" if lie == "other decision" else "approve"
        return check_statement(raw, other.release, grounds, decision=said, now=now)

    with ablation("what the word is about, and who brings it") as attack:
        attack.without("gateway.proposals.check_statement", as_it_is)
        attack.without("gateway.proposals.Proposals._check_caller")
        gateway.proposals.approve(name, signature, word, person=person)
        attack.succeeded(gateway.proposals.rows.persons(name) == ["ben"])


def test_one_signed_no_is_terminal_and_not_a_failure(gateway: SimGateway, draft: Draft) -> None:
    gateway.approve(draft, "ben")
    name = draft.release.plan_digest[:16]
    word = gateway.statement(draft.release, "carl", "reject", comment="probe is too weak")
    assert gateway.proposals.reject(name, word, person="carl") == tables.REJECTED
    assert gateway.proposals.find(name).reason == "carl: probe is too weak"
    with pytest.raises(Denied) as caught:
        gateway.approve(draft, "carl")
    assert caught.value.reason == "rejected"
    with pytest.raises(Denied):
        gateway.proposals.approved("dev", "shop", draft.release.plan_digest)


def test_an_approved_plan_can_still_be_stopped_by_one(gateway: SimGateway, draft: Draft) -> None:
    approve_all(gateway, draft)
    word = gateway.statement(draft.release, "ben", "reject")
    name = draft.release.plan_digest[:16]
    assert gateway.proposals.reject(name, word, person="ben") == tables.REJECTED
    with pytest.raises(Denied) as caught:
        gateway.proposals.approved("dev", "shop", draft.release.plan_digest)
    assert (caught.value.reason, caught.value.hint) == ("rejected", "")  # he gave no reason


def test_only_the_proposer_withdraws_and_only_before_k(gateway: SimGateway, draft: Draft) -> None:
    name = draft.release.plan_digest[:16]
    with pytest.raises(Denied) as caught:
        gateway.proposals.withdraw(
            name, gateway.statement(draft.release, "ben", "withdraw"), person="ben"
        )
    assert caught.value.reason == "not-proposer"
    word = gateway.statement(draft.release, "anna", "withdraw")
    assert gateway.proposals.withdraw(name, word, person="anna") == tables.WITHDRAWN
    second = gateway.draft(version="2.0")
    gateway.propose(second)
    approve_all(gateway, second)
    with pytest.raises(Denied):
        gateway.proposals.withdraw(
            second.release.plan_digest[:16],
            gateway.statement(second.release, "anna", "withdraw"),
            person="anna",
        )


def test_a_second_plan_of_an_app_is_told_who_holds_the_lock(
    gateway: SimGateway, draft: Draft
) -> None:
    second = gateway.draft(by="ben", version="2.0")
    with pytest.raises(Denied) as caught:
        gateway.propose(second)
    assert caught.value.reason == "locked"
    assert "of anna, pending_approval since" in caught.value.got
    assert caught.value.hint.startswith("withdraw or reject it")
    other = gateway.draft("blog", by="anna")
    with pytest.raises(Denied, match="person anna"):
        gateway.propose(other)
    gateway.propose(second, supersede=True)
    assert state_of(gateway, draft) == tables.SUPERSEDED
    assert state_of(gateway, second) == tables.PENDING


def test_the_same_proposal_again_is_the_same(gateway: SimGateway, draft: Draft) -> None:
    assert gateway.propose(draft) == draft.release.plan_digest[:16]


@pytest.mark.parametrize(
    ("stopped", "hint"),
    [("paused", "rollout abort"), ("halted", "rollout abort"), ("rolling_back", "silent node")],
)
def test_a_running_plan_is_not_superseded_and_a_stopped_one_is(
    gateway: SimGateway, draft: Draft, stopped: str, hint: str
) -> None:
    approve_all(gateway, draft)
    digest = draft.release.plan_digest
    with gateway.database.write() as connection:
        begin(connection, digest)
        connection.execute(
            insert(tables.rollouts).values(
                id=digest[:16],
                env="dev",
                app="shop",
                plan=digest,
                seq=1,
                plan_raw=b"",
                state="running",
                created="",
                updated="",
            )
        )
    second = gateway.draft(by="ben", version="2.0")
    way_out = f"wait, or embrasure rollout abort {digest[:16]}"
    for supersede in (False, True):
        with pytest.raises(Denied) as caught:
            gateway.propose(second, supersede=supersede)
        assert (caught.value.reason, caught.value.hint) == ("locked", way_out)
    with gateway.database.write() as connection:
        connection.execute(update(tables.rollouts).values(state=stopped))
    with pytest.raises(Denied) as caught:
        gateway.propose(second)
    assert f"of anna, {stopped} since" in caught.value.got
    assert hint in caught.value.hint
    assert "--supersede" in caught.value.hint
    gateway.propose(second, supersede=True)
    assert state_of(gateway, draft) == tables.SUPERSEDED


def test_the_end_of_a_rollout_frees_the_app(gateway: SimGateway, draft: Draft) -> None:
    approve_all(gateway, draft)
    with gateway.database.write() as connection:
        begin(connection, draft.release.plan_digest)
        close(connection, draft.release.plan_digest)
        close(connection, draft.release.plan_digest)  # twice is harmless
    with pytest.raises(Denied), gateway.database.write() as connection:
        begin(connection, draft.release.plan_digest)
    gateway.propose(gateway.draft(version="2.0"))


def test_late_signatures_and_late_starts_are_refused(
    gateway: SimGateway, draft: Draft, clock: Clock
) -> None:
    clock.go(hours=24)
    with pytest.raises(Denied) as caught:
        gateway.approve(draft, "ben")
    assert caught.value.reason == "expired"
    second = gateway.draft(version="2.0")
    gateway.propose(second)
    approve_all(gateway, second)
    clock.go(hours=49)
    with pytest.raises(Denied) as caught:
        gateway.proposals.approved("dev", "shop", second.release.plan_digest)
    assert caught.value.reason == "expired"


@pytest.mark.misuse
def test_a_key_denied_after_it_signed_no_longer_counts(
    gateway: SimGateway, draft: Draft, ablation: Ablation
) -> None:
    approve_all(gateway, draft)
    gateway.sim.revoke(keys=[gateway.sim.person("ben").key])
    gateway.sim.publish()
    adopt_all(gateway)
    with pytest.raises(Denied) as caught:
        gateway.proposals.approved("dev", "shop", draft.release.plan_digest)
    assert caught.value.reason == "threshold"
    with ablation("the denials at publication") as attack:
        attack.without("gateway.denials.Denials.of", lambda *_: Held().sets())
        gateway.proposals._facts = None
        attack.succeeded(gateway.proposals.approved("dev", "shop", draft.release.plan_digest).role)


@pytest.mark.misuse
def test_whoever_writes_the_database_cannot_forge_an_approval(
    gateway: SimGateway, draft: Draft, ablation: Ablation
) -> None:
    gateway.approve(draft, "ben")
    forged = CryptoSigner.generate_ed25519()
    with gateway.database.write() as connection:
        connection.execute(update(tables.proposals).values(state=tables.APPROVED))
        connection.execute(
            insert(tables.signatures).values(
                proposal=draft.release.plan_digest[:16],
                key=gateway.sim.person("carl").key,
                person="carl",
                signature=forged.sign(draft.release.signed_bytes).signature,
                at="2026-03-01T12:00:00Z",
            )
        )
    with pytest.raises(Denied, match="2 persons"):
        gateway.proposals.approved("dev", "shop", draft.release.plan_digest)
    with ablation("the signatures, verified again at publication") as attack:
        attack.without("gateway.proposals.check_complete")
        attack.without("gateway.proposals.check_enough")
        attack.succeeded(gateway.proposals.approved("dev", "shop", draft.release.plan_digest).role)


@pytest.mark.misuse
@pytest.mark.parametrize("column", ["plan", "role"])
def test_changed_rows_are_found_when_they_are_read(
    column: str, gateway: SimGateway, draft: Draft, ablation: Ablation
) -> None:
    approve_all(gateway, draft)
    other = gateway.draft("shop", by="ben", version="9.9").release
    values: dict[str, object] = {
        "plan": other.plan_raw,
        "role": other.role_raw,
    }
    with gateway.database.write() as connection:
        connection.execute(update(tables.proposals).values(**{column: values[column]}))
    asked = draft.release.plan_digest
    with pytest.raises((Refused, Denied)):
        gateway.proposals.approved("dev", "shop", asked)
    with ablation("the release, worked out again from its rows") as attack:
        attack.without("gateway.proposals.check_release", lambda *_, **__: draft.release)
        attack.without("gateway.proposals.check_complete")
        attack.succeeded(gateway.proposals.approved("dev", "shop", asked).role)


def test_a_row_under_another_plans_name_is_found(gateway: SimGateway, draft: Draft) -> None:
    approve_all(gateway, draft)
    other = gateway.draft("shop", by="ben", version="9.9").release.plan_digest
    with gateway.database.write() as connection:
        connection.execute(update(tables.proposals).values(plan_digest=other))
    with pytest.raises((Refused, Denied)):
        gateway.proposals.approved("dev", "shop", other)


def test_what_misses_a_file_is_not_taken(gateway: SimGateway) -> None:
    release = make_release("shop", {"code/main": b"#!/bin/sh\nnew\n"})
    seq = gateway.proposals.reserve("dev", "shop", person="anna")
    draft = gateway.draft_of(gateway.plan_for(release, by="anna", seq=seq), release, by="anna")
    with pytest.raises(Refused) as caught:
        gateway.propose(draft)
    assert caught.value.reason == "missing-blobs"
    gateway.upload(release)
    gateway.propose(draft)


def test_a_number_is_used_once_and_only_when_reserved(gateway: SimGateway) -> None:
    release = make_release("shop")
    gateway.upload(release)
    plan = gateway.plan_for(release, by="anna", seq=7)
    with pytest.raises(Denied) as caught:
        gateway.propose(gateway.draft_of(plan, release, by="anna"))
    assert caught.value.reason == "number"
    first = [gateway.proposals.reserve("dev", "shop", person="anna") for _ in range(3)]
    assert first == [1, 2, 3]


@pytest.mark.parametrize(
    "changes",
    [{"group": {"tier": "web"}}, {"proposer": "ben"}, {"app": "blog"}, {"env": "prod"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_plan_outside_the_policy_or_of_another_is_refused(
    changes: dict[str, object], gateway: SimGateway
) -> None:
    release = make_release("shop")
    gateway.upload(release)
    seq = gateway.proposals.reserve("dev", "shop", person="anna")
    plan = msgspec.structs.replace(gateway.plan_for(release, by="anna", seq=seq), **changes)
    with pytest.raises(EmbrasureError) as caught:
        gateway.propose(gateway.draft_of(plan, release, by="anna"))
    assert caught.value.exit_code in (3, 4)


def test_every_act_is_in_the_journal_refused_ones_too(gateway: SimGateway, draft: Draft) -> None:
    with pytest.raises(Denied):
        gateway.approve(draft, "anna")
    events = [parse_event(line) for line in gateway.journal.lines(0)]
    last = events[-1]
    assert (last.act, last.actor, last.result) == ("approve", "operator/anna", "refused")
    assert "E_OWN_PROPOSAL" in last.reason
    assert gateway.journal.open_intents() == []


def test_without_a_journal_nothing_is_counted(
    gateway: SimGateway, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateway.audit.append", full)
    with pytest.raises(EmbrasureError, match="audit journal"):
        gateway.approve(draft, "ben")
    assert gateway.proposals.rows.persons(draft.release.plan_digest[:16]) == []


@pytest.mark.parametrize("name", ["", "abc", "zzzzzzzz", "A" * 16, "%" * 8, "0" * 16])
def test_a_name_that_is_no_proposal_is_told_so(name: str, gateway: SimGateway) -> None:
    with pytest.raises(NotFound):
        gateway.proposals.find(name)
