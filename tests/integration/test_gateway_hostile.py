"""A stolen gateway against approvers' machines, and strangers against the operators' listener."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from embrasure.errors import Denied, EmbrasureError
from embrasure.net.identity import PROFILES
from embrasure.wire import admin_pb2 as wire
from gateway import views
from gateway.client import AdminClient
from gateway.grounds import load_grounds
from gateway.proposals import Proposals
from gateway.releases import build_role
from pki.folder import TrustFolder
from pki.leaf import fresh_leaf
from pki.profiles import parse_identity
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.office import Office, Running
from tests.simulate.running import until

SERVICES = ("gateway/g1", "mirror/m1", "letterbox/b1", "gateway-admin/g1")


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return Office.make(tmp_path_factory.mktemp("office") / "first")


@pytest.fixture
def mine(office: Office, tmp_path: Path) -> Office:
    return office.copy(tmp_path / "office")


def staffed(office: Office, running: Running) -> None:
    for person in ("anna", "ben", "carl"):
        office.as_person(person, running.port)


def lying(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """The gateway answers with another proposal than the one it holds."""
    honest = views.proposal

    def lie(parts: Any, name: str) -> wire.ProposalReply:
        reply = honest(parts, name)
        for field, value in changes.items():
            if field == "statements":
                del reply.statements[:]
                reply.statements.extend(value)
            else:
                setattr(reply, field, value)
        return reply

    monkeypatch.setattr(views, "proposal", lie)


def reply_of(office: Office, plan: str, *, person: str = "ben") -> wire.ProposalReply:
    with AdminClient.open(office.context(person)) as client:
        found: wire.ProposalReply = client.call(
            "Proposal", wire.ProposalQuery(id=plan.removeprefix("sha256:")[:16])
        )
        return found


def other_role(running: Running, plan_raw: bytes, manifest: bytes, version: int) -> bytes:
    grounds = load_grounds(
        running.held.repository.client,
        running.held.repository.view(),
        running.held.repository.source(),
        env="prod",
        app="shop",
    )
    from embrasure.clock import now

    return build_role(
        plan_raw, manifest, env="prod", app="shop", version=version, kept=grounds.kept, at=now()
    )


@pytest.mark.misuse
@pytest.mark.parametrize("lie", ["other plan", "other role", "no word", "other proposer", "other"])
def test_an_approver_signs_nothing_but_what_he_asked_for_and_worked_out(
    lie: str, mine: Office, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        plan = mine.propose().body["plan"]
        honest = reply_of(mine, plan)
        found = msgspec.json.decode(honest.plan)
        changed = msgspec.json.encode({**found, "title": "not what was proposed"}, order="sorted")
        manifest = next(running.held.blobs.read(found["manifest"]["sha256"]))
        if lie == "other plan":
            lying(monkeypatch, plan=changed)
        elif lie == "other role":
            lying(monkeypatch, role=other_role(running, changed, manifest, found["seq"]))
        elif lie == "no word":
            lying(monkeypatch, statements=[])
        elif lie == "other proposer":
            # So that anna could approve her own plan: "carl proposed it".
            mallory = msgspec.json.encode({**found, "proposer": "carl"}, order="sorted")
            lying(
                monkeypatch,
                plan=mallory,
                role=other_role(running, mallory, manifest, found["seq"]),
            )
        else:
            other = other_role(running, changed, manifest, found["seq"])
            lying(monkeypatch, plan=changed, role=other)
        answer = mine.approve(plan, person="ben")
        assert answer.code == 4, answer.told
        signed = mine.folder / "ben" / "state" / "signed.json"
        assert not signed.exists(), "something was signed"
        with ablation("what is worked out on his own machine") as attack:
            # Who signs what the gateway sends him signs this.
            sent = reply_of(mine, plan)
            attack.succeeded(
                (sent.plan, sent.role) != (honest.plan, honest.role) or not sent.statements
            )
        monkeypatch.undo()
        assert mine.approve(plan, person="ben").code == 0


@pytest.mark.misuse
def test_a_second_content_under_one_number_is_never_signed(
    mine: Office, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        first = mine.propose("1.0").body["plan"]
        assert mine.approve(first, person="ben").code == 0
        # The stolen gateway forgets the first and hands its number out again.
        monkeypatch.setattr(Proposals, "reserve", lambda *_, **__: 1)
        with running.held.database.write() as connection:
            for table in ("signatures", "statements", "proposals"):
                connection.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608 - a fixed word
        second = mine.propose("2.0", person="carl").body["plan"]
        answer = mine.approve(second, person="ben")
        assert (answer.code, answer.error["reason"]) == (3, "E_SECOND_CONTENT")
        with ablation("the memory of what he signed") as attack:
            (mine.folder / "ben" / "state" / "signed.json").unlink()
            attack.succeeded(mine.approve(second, person="ben").code == 0)


def test_without_a_terminal_nothing_is_signed_by_habit(mine: Office) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        plan = mine.propose().body["plan"]
        name = plan.removeprefix("sha256:")[:16]
        bare = mine.verb("approve", name, person="ben", signs=True)
        assert (bare.code, bare.error["reason"]) == (3, "E_NO_INPUT")
        wrong = mine.verb("approve", name, "--confirm-digest", "0" * 64, person="ben", signs=True)
        assert (wrong.code, wrong.error["reason"]) == (3, "E_CONFIRM")
        short = mine.verb("approve", name, "--confirm-digest", name, person="ben", signs=True)
        assert short.code == 3
        assert mine.verb("approve", name, "--yes", person="ben").code == 2


def test_a_no_and_a_withdrawal_from_the_command_line(mine: Office) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        plan = mine.propose("1.0").body["plan"]
        name = plan.removeprefix("sha256:")[:12]
        no = mine.verb("reject", name, "--reason", "weak probe", person="carl", signs=True)
        assert (no.code, no.body["state"]) == (0, "rejected")
        late = mine.approve(plan, person="ben")
        assert (late.code, late.error["reason"]) == (3, "E_REJECTED")
        name = mine.propose("2.0").body["id"]
        other = mine.verb("release", "withdraw", name, person="ben", signs=True)
        assert (other.code, other.error["reason"]) == (3, "E_NOT_PROPOSER")
        own = mine.verb("release", "withdraw", name, person="anna", signs=True)
        assert (own.code, own.body["state"]) == (0, "withdrawn")
        shown = mine.verb("release", "list", person="anna").body["releases"]
        assert sorted(row["state"] for row in shown) == ["rejected", "withdrawn"]


@pytest.mark.parametrize("identity", SERVICES)
def test_no_service_of_the_fleet_can_call_the_operators_listener(
    identity: str, mine: Office
) -> None:
    trust = TrustFolder.open(mine.trust)
    from embrasure.clock import now

    with mine.gateway() as running:
        staffed(mine, running)
        role = parse_identity(identity).role
        key, chain = fresh_leaf(trust.issuer(PROFILES[role].issuer, _source(mine)), identity, now)
        folder = mine.folder / "anna"
        (folder / "tls.key").write_bytes(key)
        (folder / "tls.crt").write_bytes(chain)
        answer = mine.verb("whoami", person="anna")
        assert answer.code in (3, 5), answer.told
        assert len(running.held.journal.lines(0)) <= 4


def _source(office: Office) -> Any:
    from pki.passphrase import PassphraseSource

    return PassphraseSource(lambda _: office.passphrase.read_bytes().strip(), tries=1)


@pytest.mark.misuse
def test_an_operator_whom_the_policy_does_not_list_may_do_nothing(
    mine: Office, ablation: Ablation
) -> None:
    with mine.gateway() as running:
        mine.as_person("mallory", running.port, key="anna")
        for words in (["status"], ["approvals"], ["release", "list"], ["audit", "verify"]):
            answer = mine.verb(*words, person="mallory")
            assert (answer.code, answer.error["reason"]) == (3, "E_NOT_A_PERSON"), words
        assert mine.verb("whoami", person="mallory").body["environments"] == []
        with ablation("the list of persons") as attack:
            attack.without("gateway.people.People.check", lambda _, person, env="", **__: person)
            attack.succeeded(mine.verb("status", person="mallory").code == 0)


@pytest.mark.misuse
def test_annas_key_in_bens_name_is_refused(mine: Office, ablation: Ablation) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        plan = mine.propose(person="carl").body["plan"]
        mine.as_person("ben", running.port, key="anna")
        answer = mine.approve(plan, person="ben")
        assert (answer.code, answer.error["reason"]) == (3, "E_CALLER")
        with ablation("the name of the caller, on his machine and at the gateway") as attack:
            attack.without(
                "gateway.approving.check_person",
                lambda _, grounds, signer: grounds.person_of(signer.public_key.keyid),
            )
            answer = mine.approve(plan, person="ben")
            assert (answer.code, answer.error["reason"]) == (3, "E_CALLER")
            attack.without("gateway.proposals.Proposals._check_caller")
            attack.succeeded(mine.approve(plan, person="ben").code == 0)


@pytest.mark.misuse
def test_a_gateway_that_another_issuer_certified_is_not_spoken_to(
    mine: Office, ablation: Ablation
) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        pinned = mine.folder / "anna" / "admin-ca.pem"
        honest = pinned.read_bytes()
        # As if whoever answers had its certificate from elsewhere; the name in it is right.
        pinned.write_bytes(Authority("office.test").issuer_pem("admin"))
        assert mine.verb("whoami", "--timeout", "5s", person="anna").code == 5
        pinned.write_bytes((mine.trust / "ca" / "node.crt").read_bytes())
        assert mine.verb("whoami", "--timeout", "5s", person="anna").code == 5
        pinned.write_bytes(honest)
        assert mine.verb("whoami", person="anna").code == 0
        with ablation("the one issuer that is pinned") as attack:
            # As if any of two were good enough.
            pinned.write_bytes(Authority("office.test").issuer_pem("admin") + honest)
            attack.succeeded(mine.verb("whoami", person="anna").code == 0)


@pytest.mark.misuse
def test_a_cut_journal_is_seen_by_every_operator_who_saw_its_head(
    mine: Office, ablation: Ablation
) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        mine.propose()
        assert mine.verb("audit", "verify", person="ben").code == 0
    # Whoever holds the gateway's disk cuts both copies to the same shorter history.
    state = mine.gateway_folder / "state"
    lines = (state / "audit.jsonl").read_bytes().splitlines(keepends=True)
    (state / "audit.jsonl").write_bytes(b"".join(lines[:4]))
    import sqlite3

    with sqlite3.connect(state / "gateway.sqlite") as database:
        database.execute("DELETE FROM events WHERE n > 4")
    database.close()
    with mine.gateway() as running:
        staffed(mine, running)
        answer = mine.verb("audit", "verify", person="ben")
        assert (answer.code, answer.error["reason"]) == (4, "E_AUDIT")
        with ablation("the memory of the head") as attack:
            attack.succeeded(mine.verb("audit", "verify", person="carl").code == 0)


def test_trust_files_reach_a_running_gateway(mine: Office) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        (node,) = mine.enrol(range(7, 8))
        found = mine.verb("trust", "submit", mine.trust, person="anna")
        assert found.code == 0, found.told
        assert set(found.body["roles"]) == {"fleet-prod"}
        nodes = mine.verb("fleet", "list", "--env", "prod", person="ben").body["nodes"]
        assert node.id in {row["id"] for row in nodes}
        assert mine.verb("trust", "submit", mine.trust, person="anna").body["roles"] == {}


def test_trust_files_reach_a_gateway_that_starts(mine: Office) -> None:
    with mine.gateway():
        pass
    (node,) = mine.enrol(range(7, 8))
    assert mine.init().code == 0
    with mine.gateway() as running:
        staffed(mine, running)
        nodes = mine.verb("fleet", "list", "--env", "prod", person="ben").body["nodes"]
        assert node.id in {row["id"] for row in nodes}
    assert not (mine.gateway_folder / "incoming").exists()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_a_broken_upload_goes_on_at_its_byte(mine: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway import proposing

    honest, sent = proposing._pieces, []
    cuts: list[str] = []
    partial = mine.gateway_folder / "repository" / "blobs" / ".partial"

    def cut(bundle: Any, small: Any, digest: str, length: int, offset: int) -> Any:
        for number, piece in enumerate(honest(bundle, small, digest, length, offset)):
            if number == 2:
                until(lambda: _size(partial / digest) >= 1000, what="the first piece")
                cuts.append(digest)
                raise ConnectionError("the line is cut")
            yield piece

    def counted(*arguments: Any) -> Any:
        for piece in honest(*arguments):
            assert isinstance(piece, wire.Upload)
            sent.append((piece.offset, len(piece.body)))
            yield piece

    monkeypatch.setattr(proposing, "_PIECE", 1000)
    with mine.gateway() as running:
        staffed(mine, running)
        mine.bundle("1.0", body="#" * 10_000)
        monkeypatch.setattr(proposing, "_pieces", cut)
        bundle = mine.folder / "shop-1.0.bundle"
        words = ("release", "propose", bundle, "--plan", mine.plan_file())
        assert mine.verb(*words, person="anna", signs=True).code != 0
        assert len(cuts) == 1
        monkeypatch.setattr(proposing, "_pieces", counted)
        assert mine.verb(*words, person="anna", signs=True).code == 0
    offsets = [offset for offset, _ in sent if offset]
    assert len(offsets) == 1
    assert offsets[0] in (1000, 2000)  # whatever had arrived when the line was cut
    assert sum(length for _, length in sent) < 12_000


def test_one_gateway_a_folder(mine: Office) -> None:
    with mine.gateway() as running:
        assert running.port
        with pytest.raises(EmbrasureError) as caught, mine.gateway(wait_s=0.1):
            pass
        assert caught.value.exit_code == 5


def test_status_reads_the_folder(mine: Office) -> None:
    from tests.simulate.office import verb

    assert mine.init().code == 0
    assert verb("gateway", "status", mine.gateway_folder).body["running"] is False
    with mine.gateway() as running:
        found = verb("gateway", "status", mine.gateway_folder).body
        assert (found["running"], found["port"]) == (True, running.port)
        assert {"timestamp", "snapshot", "gates-prod"} <= {r["name"] for r in found["roles"]}
    assert not (mine.gateway_folder / "ports.json").exists()


@pytest.mark.misuse
@pytest.mark.parametrize("verb", ["PauseRollout", "ResumeRollout", "AbortRollout", "RetryRollout"])
def test_a_roll_out_of_another_environment_is_not_touched(
    verb: str, mine: Office, ablation: Ablation
) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        with running.held.database.write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO rollouts VALUES (:id, 'other', 'shop', :plan, 1, x'', 'succeeded', '',"
                " '', 0, 1, 1, 'done', 0, '', '', '', '', '', 'yes')",
                {"id": "ab" * 8, "plan": "ab" * 32},
            )
        with AdminClient.open(mine.context("anna")) as client:
            request = wire.ActRequest(id="ab" * 8, reason="mine now")
            with pytest.raises(Denied) as caught:
                client.json(verb, request)
            assert caught.value.reason == "not-a-person"
            with ablation("the environment of the person") as attack:
                # The call goes on to the roll-out itself.
                attack.without(
                    "gateway.people.People.check", lambda _, person, env="", **__: person
                )
                with pytest.raises(EmbrasureError) as passed:
                    client.json(verb, request)
                attack.succeeded(passed.value.reason != "not-a-person")
