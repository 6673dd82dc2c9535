"""Gates: evidence chosen from rows that are not trusted, judged as nodes will judge it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from embrasure.errors import Denied, Refused
from embrasure.trust.client import TrustClient
from embrasure.trust.documents import digest, write
from embrasure.trust.gate import parse_gate
from embrasure.trust.plan import Plan
from embrasure.trust.receipt import Kind, Outcome, Ran, read_record, sign_receipt
from gateway import tables
from gateway.database import Database
from gateway.denials import Denials
from gateway.gates import Ground, check_gate, evidence_of, load_ground, make_gate, would
from gateway.rollout import Publish
from tests.ablation import Ablation
from tests.simulate.nodes import SimNode
from tests.simulate.repository import SimRepository

OPEN_1 = Publish(state="open", open_wave=1, attempt=1)


@dataclass
class Case:
    """One published plan with a canary and two waves, and an empty database."""

    sim: SimRepository
    plan: Plan
    ground: Ground
    database: Database

    @property
    def digest(self) -> str:
        return digest(self.plan)

    def canary(self) -> SimNode:
        return self.sim.nodes[self.plan.waves[0].nodes[0].id]

    def put(self, signed: bytes, *, node: str = "", wave: int | None = None) -> None:
        """Store 320 bytes as whoever writes the database would."""
        told = read_record(signed[:256])
        with self.database.write() as connection:
            connection.execute(
                insert(tables.receipts).values(
                    key="k", rseq=told.rseq, node=node or told.node, rollout="",
                    plan=self.digest, wave=told.wave if wave is None else wave,
                    kind=int(Kind.SOAKED), outcome=int(Outcome.OK), signed=signed, body=b"",
                    at="",
                )
            )  # fmt: skip

    def counted(self, **changes: Any) -> list[int]:
        wanted = {"denied": frozenset(), "min_isolation": 0, **changes}
        found = evidence_of(self.database, self.plan, self.digest, **wanted)
        return [len(item.counted) for item in found]

    def gate(self, wanted: Publish = OPEN_1) -> Any:
        found = evidence_of(
            self.database, self.plan, self.digest, denied=self.ground.denied.keys,
            min_isolation=0,
        )  # fmt: skip
        return make_gate(
            self.plan, self.digest, wanted, found, gseq=2, audit_head="0" * 64,
            now=datetime.now(UTC),
        )  # fmt: skip


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    sim = SimRepository()
    nodes = [sim.add_node() for _ in range(24)]  # so many that no wave is empty by chance
    sim.add_app("shop")
    plan = sim.set_plan(sim.add_release("shop"), canary=nodes[:1], percents=(50, 100), soak_s=1)
    sim.publish()
    client, source = TrustClient(tmp_path / "tuf", sim.anchor), sim.source()
    view, denials = client.refresh(source, roles=None), Denials(tmp_path / "denied")
    denials.take(client, view, source)
    database = Database(tmp_path / "state")
    yield Case(sim, plan, load_ground(view, source, denials, env="dev", app="shop"), database)
    database.close()


def soak(case: Case, **changes: Any) -> bytes:
    honest = read_record(case.canary().receipt(case.plan, 0, at=datetime.now(UTC))[:256])
    return sign_receipt(replace(honest, **changes), case.canary().signing)


def test_a_soaked_canary_makes_a_gate_that_nodes_obey(case: Case) -> None:
    case.put(soak(case))
    gate = case.gate()
    check_gate(case.plan, case.digest, gate, case.ground)
    assert parse_gate(write(gate)) == gate
    assert [item.wave for item in gate.evidence] == [0]
    signer = case.sim.signers["gates-dev"][0].public_key.keyid
    member = next(node.id for node in case.plan.waves[1].nodes)
    verdict = would(case.ground, gate, member, signer=signer, now=datetime.now(UTC))
    assert verdict.kind == "install"


def test_without_evidence_the_gateway_refuses_its_own_gate(case: Case) -> None:
    with pytest.raises(Refused) as found:
        check_gate(case.plan, case.digest, case.gate(), case.ground)
    assert found.value.reason == "evidence"
    signer = case.sim.signers["gates-dev"][0].public_key.keyid
    member = next(node.id for node in case.plan.waves[1].nodes)
    verdict = would(case.ground, case.gate(), member, signer=signer, now=datetime.now(UTC))
    assert (verdict.kind, verdict.reason) == ("refuse", "evidence")


@pytest.mark.parametrize(
    "changes",
    [
        {"soaked_s": 0}, {"kind": Kind.HEALTHY}, {"outcome": Outcome.FAILED}, {"wave": 1},
        {"ran": Ran.PREVIOUS}, {"seq": 99}, {"plan": bytes(32)}, {"manifest": bytes(32)},
        {"scope": bytes(16)},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_what_says_less_than_soaked_is_no_evidence(case: Case, changes: dict[str, Any]) -> None:
    case.put(soak(case, **changes), wave=0)
    assert case.counted() == [0, 0, 0]


def test_a_witness_of_another_wave_and_an_unnamed_node_do_not_count(case: Case) -> None:
    other = case.sim.nodes[case.plan.waves[1].nodes[0].id]
    case.put(other.receipt(case.plan, 0, at=datetime.now(UTC)))
    assert case.counted() == [0, 0, 0]


@pytest.mark.misuse
def test_a_database_writer_cannot_forge_evidence(case: Case, ablation: Ablation) -> None:
    thief = SimNode(id=case.canary().id)
    case.put(thief.receipt(case.plan, 0, at=datetime.now(UTC)))
    assert case.counted() == [0, 0, 0]
    with ablation("the signature of each stored receipt") as attack:
        # Ablation: believing the row, the gateway would sign the gate (and nodes still refuse it).
        attack.without("gateway.gates._verified", lambda signed, _: read_record(signed[:256]))
        attack.succeeded(case.counted() == [1, 0, 0])
    with pytest.raises(Refused):
        check_gate(case.plan, case.digest, case.gate(), case.ground)


def test_a_true_receipt_of_another_node_under_a_changed_row_does_not_count(case: Case) -> None:
    other = case.sim.nodes[case.plan.waves[1].nodes[0].id]
    case.put(other.receipt(case.plan, 0, at=datetime.now(UTC)), node=case.canary().id)
    assert case.counted() == [0, 0, 0]


def test_a_denied_key_no_longer_counts_and_the_stop_is_still_told(case: Case) -> None:
    case.put(soak(case))
    assert case.counted(denied={case.canary().receipt_id}) == [0, 0, 0]
    assert case.counted(min_isolation=1) == [0, 0, 0]
    found = evidence_of(
        case.database, case.plan, case.digest, denied={case.canary().receipt_id}, min_isolation=0
    )
    halted = Publish(state="halted", open_wave=1, attempt=1, code="operator", reason="stop")
    gate = make_gate(
        case.plan, case.digest, halted, found, gseq=3, audit_head="0" * 64, now=datetime.now(UTC)
    )
    # Nodes hold (Denied), they raise no alarm (Refused).
    ground = Ground(
        case.ground.docs,
        type(case.ground.denied)(
            frozenset(), frozenset(), frozenset({case.canary().receipt_id}), frozenset()
        ),
        case.ground.entries,
        case.ground.union,
    )
    with pytest.raises(Denied):
        check_gate(case.plan, case.digest, gate, ground)


def test_words_of_operators_and_nodes_cannot_break_a_gate(case: Case) -> None:
    case.put(soak(case))
    told = Publish(
        state="paused", open_wave=1, attempt=1, code="operator", reason="\u202e\x00é" + "x" * 500
    )
    gate = case.gate(told)
    assert parse_gate(write(gate)).reason == "???" + "x" * 197


def test_a_changed_plan_in_the_rows_stops_that_roll_out_alone(case: Case) -> None:
    from embrasure.errors import Damaged
    from gateway import rows
    from gateway.rollout import Rollout
    from gateway.rows import Stored

    raw, name = write(case.plan), case.digest[:16]
    rollout = Rollout(id=name, env="dev", app="shop", plan=case.digest, seq=case.plan.seq)
    stored = Stored(
        rollout=rollout, plan=case.plan, plan_raw=raw, members=(), gseq=1, by="operator/anna",
        created="2030-01-01T12:00:00Z", updated="", ended="",
    )  # fmt: skip
    with case.database.write() as connection:
        rows.insert_new(connection, stored, gseq=1)
    assert rows.load(case.database, name).plan == case.plan
    for change in (
        {"plan_raw": raw[:-1] + b" "},
        {"state": "exploded"},
        {"open_wave": 7},
        {"wave_since": "soon"},
        {"open_wave": "x"},
        {"blocked_since": 7},
    ):
        with case.database.write() as connection:
            connection.execute(update(tables.rollouts).values(**change))
        with pytest.raises(Damaged):
            rows.load(case.database, name)
        with case.database.write() as connection:
            connection.execute(
                update(tables.rollouts).values(
                    plan_raw=raw, state="running", open_wave=0, wave_since="", blocked_since=""
                )
            )
