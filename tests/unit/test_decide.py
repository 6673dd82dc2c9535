from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust import decide as module
from embrasure.trust.client import TrustClient
from embrasure.trust.decide import NodeState, Verdict, decide
from embrasure.trust.documents import digest
from embrasure.trust.floors import AppFloor, Committed, Union
from embrasure.trust.load import Docs, load, parsed, roles_for
from embrasure.trust.plan import Plan
from embrasure.trust.receipt import Kind, Outcome, read_record, sign_receipt
from tests.ablation import Ablation
from tests.simulate.nodes import SimNode
from tests.simulate.repository import SimRepository

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
NO_FLOOR = AppFloor()
NO_UNION = Union()


@dataclass
class Scene:
    """A fleet of five, an approved plan of two waves, a gate that opens both with evidence."""

    repo: SimRepository
    canary: SimNode
    node: SimNode  # a member of the last wave
    plan: Plan
    docs: Docs
    state: NodeState

    def verdict(self, now: datetime = NOW) -> Verdict:
        return decide(self.docs, self.state, now=now)

    def said(self) -> str:
        found = self.verdict()
        return found.kind if found.kind == "install" else f"{found.kind} {found.reason}"

    def app(self, **changes: object) -> None:
        floor = msgspec.structs.replace(self.state.app, **changes)
        self.state = dataclasses.replace(self.state, app=floor)


def read(repo: SimRepository, folder: Path, node: SimNode) -> Docs:
    client = TrustClient(folder, repo.anchor, clock=lambda: NOW)
    source = repo.source()
    view = client.refresh(source, roles=roles_for("dev", "shop"))
    return load(client, view, source, env="dev", app="shop", node=node.id)


def state_of(node: SimNode, **changes: object) -> NodeState:
    fields = {
        "node": node.id, "env": "dev", "epoch": 1, "receipt_key": node.receipt_public.hex(),
        "isolation": 0, "busy": False, "held": False, "time_floor": 0, "union": NO_UNION,
        "app": NO_FLOOR,
    }  # fmt: skip
    return NodeState(**{**fields, **changes})  # type: ignore[arg-type]  # by name, from a table


def build(
    folder: Path,
    change: Callable[[SimRepository, Plan], None] | None = None,
    *,
    open_wave: int = 1,
    state: str = "open",
    soaked: bool = True,
) -> Scene:
    repo = SimRepository(env="dev", clock=lambda: NOW)
    nodes = [repo.add_node(labels={"tier": "web"}) for _ in range(5)]
    repo.add_app("shop", group={"tier": "web"})
    release = repo.add_release("shop")
    plan = repo.set_plan(release, canary=nodes[:1], percents=(100,), soak_s=60)
    receipts = {0: repo.soak(plan, 0)} if soaked else {}
    repo.set_gate(plan, open_wave=open_wave, receipts=receipts, state=state)  # type: ignore[arg-type]  # from a table
    if change is not None:
        change(repo, plan)
    repo.publish()
    docs = read(repo, folder, nodes[4])
    return Scene(repo, nodes[0], nodes[4], plan, docs, state_of(nodes[4]))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return build(tmp_path / "trust")


def test_an_approved_release_whose_turn_it_is_is_installed(scene: Scene) -> None:
    plan = digest(scene.plan)
    assert scene.verdict() == Verdict("install", "", plan, scene.plan.manifest.sha256, 1)


def test_the_canary_is_wave_0(scene: Scene) -> None:
    docs = dataclasses.replace(scene.docs, entry=scene.canary.entry())
    assert decide(docs, state_of(scene.canary), now=NOW).wave == 0


# --- each step: what it refuses, and that the same input installs once the step is gone -----------

State = Callable[[Scene], None]


def _docs(**changes: object) -> State:
    def change(scene: Scene) -> None:
        scene.docs = dataclasses.replace(scene.docs, **changes)  # type: ignore[arg-type]  # by name

    return change


def _state(**changes: object) -> State:
    def change(scene: Scene) -> None:
        scene.state = dataclasses.replace(scene.state, **changes)  # type: ignore[arg-type]  # by name

    return change


def _policy(**changes: object) -> State:
    def change(scene: Scene) -> None:
        assert scene.docs.policy is not None
        policy = msgspec.structs.replace(scene.docs.policy, **changes)
        scene.docs = dataclasses.replace(scene.docs, policy=policy)

    return change


def _rules(**changes: object) -> State:
    def change(scene: Scene) -> None:
        assert scene.docs.policy is not None
        rules = msgspec.structs.replace(scene.docs.policy.apps["shop"], **changes)
        _policy(apps={"shop": rules})(scene)

    return change


def _plan(**changes: object) -> State:
    def change(scene: Scene) -> None:
        assert scene.docs.plan is not None
        _docs(plan=msgspec.structs.replace(scene.docs.plan, **changes))(scene)

    return change


def _gate(**changes: object) -> State:
    def change(scene: Scene) -> None:
        assert scene.docs.gate is not None
        _docs(gate=msgspec.structs.replace(scene.docs.gate, **changes))(scene)

    return change


def _role(**changes: object) -> State:
    def change(scene: Scene) -> None:
        roles = dict(scene.docs.view.roles)
        roles["dev-shop"] = dataclasses.replace(roles["dev-shop"], **changes)  # type: ignore[arg-type]  # by name
        view = dataclasses.replace(scene.docs.view, roles=roles)
        scene.docs = dataclasses.replace(scene.docs, view=view)

    return change


def _app(**changes: object) -> State:
    return lambda scene: scene.app(**changes)


def _denied(field: str, value: Callable[[Scene], str]) -> State:
    def change(scene: Scene) -> None:
        _state(union=msgspec.structs.replace(NO_UNION, **{field: {value(scene): 1}}))(scene)

    return change


def _drop_manifest(scene: Scene) -> None:
    targets = scene.docs.view.roles["dev-shop"].targets
    _role(targets={k: v for k, v in targets.items() if k.endswith("plan.json")})(scene)


def _deny_one_approver(scene: Scene) -> None:
    signer = min(scene.docs.view.roles["dev-shop"].signers)
    _state(union=msgspec.structs.replace(NO_UNION, keys={signer: 1}))(scene)


def _forget_one_approver(scene: Scene) -> None:
    assert scene.docs.policy is not None
    signer = min(scene.docs.view.roles["dev-shop"].signers)
    known = tuple(p for p in scene.docs.policy.people if signer not in p.keys)
    if len(known) != len(scene.docs.policy.people) - 1:
        raise ValueError("another fault has forgotten that one")
    _policy(people=known)(scene)


def _committed(scene: Scene) -> None:
    plan = scene.docs.plan_digest
    done = Committed(plan=plan, seq=1, ran="main", manifest="a" * 64, wave=1)
    scene.app(committed=done)


MANY = {f"{number:064x}": 1 for number in range(4097)}
# A plan of another scope also meets no policy and no evidence: three guards on purpose.
OVERLAP = "_step_5_sequence _step_9_approval _step_14_evidence"
CASES: list[tuple[str, str, str, State]] = [
    (OVERLAP, "refuse plan", "of another app", _plan(app="other")),
    (OVERLAP, "refuse plan", "of another environment", _plan(env="prod")),
    (OVERLAP, "refuse plan", "of another fleet", _plan(root="0" * 64)),
    ("_step_5_sequence", "refuse rollback", "an older plan", _app(seen_seq=99)),
    ("_step_5_sequence", "refuse seq_ahead", "ahead of its role", _role(version=0)),
    ("_step_5_sequence", "refuse seq_ahead", "above the ceiling", _policy(seq_ceiling={"shop": 0})),
    (
        "_step_5_sequence", "refuse equivocation", "two plans, one number",
        lambda s: s.app(seen_seq=s.plan.seq, seen_plan="f" * 64),
    ),
    ("_step_5_sequence", "hold min_seq", "below the minimum", _policy(min_seq={"shop": 99})),
    ("_step_12_owner", "hold owner", "held by its owner", _state(held=True)),
    ("_step_5_sequence", "wait busy", "another install runs", _state(busy=True)),
    ("_step_6_done", "none done", "committed", _committed),
    ("_step_9_approval", "hold approval", "one signature too few", _role(signers=frozenset())),
    ("_step_9_approval", "hold approval", "a denied approver", _deny_one_approver),
    ("_step_9_approval", "hold approval", "keys of nobody", _policy(people=())),
    ("_step_9_approval", "hold approval", "one key of nobody", _forget_one_approver),
    ("_step_9_approval", "hold policy", "an app without rules", _policy(apps={})),
    ("_step_9_approval", "hold policy", "another group", _rules(group={"tier": "db"})),
    ("_step_9_approval", "hold policy", "too few canaries", _rules(min_canary=2)),
    ("_step_9_approval", "hold policy", "too short a soak", _rules(min_soak_s=61)),
    ("_step_9_approval", "hold policy", "too large a step", _rules(max_second_percent=50)),
    ("_step_9_approval", "hold policy", "too long to approve", _rules(approval_expiry_s=60)),
    ("_step_9_approval", "hold policy", "too long to start", _rules(execution_expiry_s=60)),
    ("_step_10_denied", "hold denied", "its plan", _denied("plans", lambda s: digest(s.plan))),
    (
        "_step_10_denied", "hold denied", "its manifest",
        _denied("manifests", lambda s: s.plan.manifest.sha256),
    ),
    ("_step_10_denied", "hold denied", "this node", _denied("nodes", lambda s: s.node.id)),
    (
        "_step_10_denied", "hold union_full", "too many denials",
        _state(union=msgspec.structs.replace(NO_UNION, manifests=MANY)),
    ),
    ("_step_11_manifest", "refuse manifest", "not of this role", _drop_manifest),
    ("_step_11_manifest", "wait withheld", "withheld", _docs(manifest=None)),
    ("_step_13_gate", "wait gate", "of another plan", _gate(plan="f" * 64)),
    ("_step_13_gate", "wait gate", "of another fleet", _gate(root="0" * 64)),
    ("_step_13_gate", "wait gate", "behind the one seen", _app(gate_seq=99)),
    ("_step_13_gate", "wait gate", "by nobody that counts", _docs(gate_signers=frozenset())),
    (
        "_step_13_gate", "refuse equivocation", "two gates, one number",
        lambda s: s.app(gate_seq=s.plan.seq, gseq=1, gate_digest="f" * 64),
    ),
    ("_step_14_evidence", "refuse evidence", "no receipts at all", _gate(evidence=())),
    (
        "_step_14_evidence", "hold evidence", "a canary's key denied since",
        _denied("keys", lambda s: s.canary.receipt_id),
    ),
    ("_step_14_evidence", "hold evidence", "isolation asked since", _policy(min_isolation=1)),
    ("_step_15_state", "wait paused", "paused", _gate(state="paused")),
    ("_step_15_state", "wait halted", "halted", _gate(state="halted")),
    ("_step_16_turn", "wait turn", "a later wave's turn", _gate(open_wave=0)),
    (
        "_step_16_turn", "hold quarantine", "failed here before",
        lambda s: s.app(tries={digest(s.plan): 1}),
    ),
]  # fmt: skip


@pytest.mark.misuse
@pytest.mark.parametrize(
    ("step", "said", "change"), [(a, b, d) for a, b, _, d in CASES], ids=[c for _, _, c, _ in CASES]
)
def test_each_step_decides_and_without_it_the_same_input_installs(
    scene: Scene, step: str, said: str, change: State, ablation: Ablation
) -> None:
    assert scene.said() == "install"  # the honest twin
    change(scene)
    assert scene.said() == said
    rest = tuple(found for found in module._STEPS if found.__name__ not in step.split())
    assert len(rest) == len(module._STEPS) - len(step.split())
    with ablation(step) as attack:
        attack.without("embrasure.trust.decide._STEPS", rest)
        attack.succeeded(scene.said() == "install")


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("hold owner", _state(held=True)),
        ("wait gate", _docs(gate=None)),
        ("wait paused", _gate(state="paused")),
        ("wait turn", _gate(open_wave=0)),
    ],
)
def test_what_waits_for_its_moment_alone_may_be_staged(
    scene: Scene, said: str, change: State
) -> None:
    change(scene)
    found = scene.verdict()
    assert (f"{found.kind} {found.reason}", found.stage, found.wave) == (said, True, 1)
    assert (found.plan, found.manifest) == (digest(scene.plan), scene.plan.manifest.sha256)
    scene.app(tries={digest(scene.plan): 1})
    assert not scene.verdict().stage, "what failed here once is not fetched ahead of time"


@pytest.mark.misuse
@pytest.mark.parametrize(
    ("step", "change"),
    [
        ("_step_9_approval", _role(signers=frozenset())),
        ("_step_10_denied", _denied("manifests", lambda s: s.plan.manifest.sha256)),
        ("_step_11_manifest", _drop_manifest),
    ],
)
def test_nothing_is_staged_that_was_not_approved(
    scene: Scene, step: str, change: State, ablation: Ablation
) -> None:
    _gate(open_wave=0)(scene)
    assert scene.verdict().stage  # the honest twin
    change(scene)
    assert not scene.verdict().stage
    with ablation(step) as attack:
        rest = tuple(found for found in module._STEPS if found.__name__ != step)
        attack.without("embrasure.trust.decide._STEPS", rest)
        attack.succeeded(scene.verdict().stage)


def test_neither_a_halted_roll_out_nor_what_is_wrong_is_staged(scene: Scene) -> None:
    assert not scene.verdict().stage
    for change in (_gate(state="halted"), _gate(evidence=()), _docs(manifest=None)):
        change(scene)
        assert not scene.verdict().stage


@pytest.mark.misuse
def test_an_expired_role_waits_and_without_the_rule_would_install(
    scene: Scene, ablation: Ablation
) -> None:
    later = NOW + timedelta(hours=25)
    found = scene.verdict(later)
    assert (found.kind, found.reason) == ("wait", "stale:timestamp")
    with ablation("the roles that must be fresh") as attack:
        attack.without("embrasure.trust.decide._matters", lambda *_: False)
        attack.succeeded(scene.verdict(later).kind == "install")


@pytest.mark.parametrize("role", ["root", "snapshot", "targets", "revocations", "fleet-dev",
                                  "dev-shop", "gates-dev"])  # fmt: skip
def test_every_role_on_the_path_may_be_stale(scene: Scene, role: str) -> None:
    roles = dict(scene.docs.view.roles)
    roles[role] = dataclasses.replace(roles[role], expires=NOW)
    scene.docs = dataclasses.replace(
        scene.docs, view=dataclasses.replace(scene.docs.view, roles=roles)
    )
    assert scene.said() == f"wait stale:{role}"


def test_a_clock_set_back_reopens_nothing(scene: Scene) -> None:
    _state(time_floor=int((NOW + timedelta(hours=30)).timestamp()))(scene)
    assert scene.said() == "wait clock_behind"
    _state(time_floor=int((NOW + timedelta(seconds=299)).timestamp()))(scene)
    assert scene.said() == "install"


@pytest.mark.misuse
@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("refuse identity", _state(epoch=2)),
        ("refuse identity", _state(receipt_key="0" * 64)),
        ("hold not_enrolled", _docs(entry=None)),
    ],
)
def test_only_the_enrolled_node_installs(
    scene: Scene, said: str, change: State, ablation: Ablation
) -> None:
    change(scene)
    assert scene.said() == said
    with ablation("the node's own entry, key and epoch") as attack:
        attack.without("embrasure.trust.decide._identity", lambda *_: scene.node.entry())
        attack.succeeded(scene.said() == "install")


def test_a_retired_node_installs_nothing(scene: Scene) -> None:
    entry = msgspec.structs.replace(scene.node.entry(), state="retired")
    _docs(entry=entry)(scene)
    assert scene.said() == "hold not_enrolled"


def test_rules_withheld_or_of_another_fleet_are_no_rules(scene: Scene) -> None:
    whole = scene.docs
    for name in ("policy", "revocations"):
        _docs(**{name: None})(scene)
        assert scene.said() == "hold no_rules"
        scene.docs = whole
    _policy(root="0" * 64)(scene)
    assert scene.said() == "refuse rules_of_another_fleet"
    scene.docs = whole
    _policy(protocol_min=2)(scene)
    assert scene.said() == "hold protocol"


def test_a_plan_withheld_waits_and_no_plan_is_nothing_to_do(scene: Scene) -> None:
    _docs(plan=None)(scene)
    assert scene.said() == "wait withheld"
    _role(targets={})(scene)
    assert scene.said() == "none no_plan"


def test_a_node_outside_the_group_has_nothing_to_do(scene: Scene) -> None:
    _docs(entry=msgspec.structs.replace(scene.node.entry(), labels={"tier": "db"}))(scene)
    assert scene.said() == "none not_in_group"


def test_the_canary_may_not_start_after_not_after_but_later_waves_go_on(scene: Scene) -> None:
    _plan(not_after="2026-05-04T11:00:00Z", created="2026-05-04T09:00:00Z",
          approve_by="2026-05-04T10:00:00Z")(scene)  # fmt: skip
    assert scene.said() == "install"
    docs = dataclasses.replace(scene.docs, entry=scene.canary.entry())
    scene.docs, scene.state = docs, state_of(scene.canary)
    _gate(open_wave=0, evidence=())(scene)
    assert scene.said() == "hold expired"


def test_a_higher_attempt_of_the_gate_lifts_the_quarantine(scene: Scene) -> None:
    scene.app(tries={digest(scene.plan): 1})
    _gate(attempt=2)(scene)
    assert scene.said() == "install"


# --- evidence ---------------------------------------------------------------------------------


def forged(kind: str) -> Callable[[SimRepository, Plan], None]:
    def change(repo: SimRepository, plan: Plan) -> None:
        nodes = list(repo.nodes.values())
        at = NOW
        other = nodes[1]
        made = {
            "by another node": other.receipt(plan, 0, at=at),
            "of another wave": nodes[0].receipt(plan, 1, at=at),
            "failed": nodes[0].receipt(plan, 0, at=at, outcome=Outcome.FAILED),
            "healthy only": nodes[0].receipt(plan, 0, at=at, kind=Kind.HEALTHY),
            "too short": nodes[0].receipt(plan, 0, at=at, soaked_s=59),
            "of another plan": nodes[0].receipt(
                msgspec.structs.replace(plan, title="another"), 0, at=at
            ),
        }[kind]
        repo.set_gate(plan, open_wave=1, receipts={0: [made]})

    return change


@pytest.mark.misuse
@pytest.mark.parametrize(
    "kind",
    [
        "by another node",
        "of another wave",
        "failed",
        "healthy only",
        "too short",
        "of another plan",
    ],
)
def test_a_stolen_gate_key_cannot_skip_the_canary(
    kind: str, tmp_path: Path, ablation: Ablation
) -> None:
    scene = build(tmp_path / "a", forged(kind))
    assert scene.said() == "refuse evidence"
    with ablation("the check of the evidence") as attack:
        attack.without("embrasure.trust.decide.check_gate_evidence")
        attack.succeeded(scene.said() == "install")


@pytest.mark.misuse
def test_one_canary_does_not_speak_for_another(tmp_path: Path, ablation: Ablation) -> None:
    def change(repo: SimRepository, plan: Plan) -> None:
        one, two = list(repo.nodes.values())[:2]
        both = repo.set_plan(repo.add_release("shop"), canary=[one, two], soak_s=60)
        true = one.receipt(both, 0, at=NOW)
        told = dataclasses.replace(read_record(true[:256]), node=two.id)
        # The thief of the first canary has its key, and no other.
        repo.set_gate(both, open_wave=1, receipts={0: [true, sign_receipt(told, one.signing)]})

    scene = build(tmp_path / "a", change)
    assert scene.said() == "refuse evidence"
    with ablation("the check of the evidence") as attack:
        attack.without("embrasure.trust.decide.check_gate_evidence")
        attack.succeeded(scene.said() == "install")


def test_done_opens_every_wave_only_with_evidence_of_every_wave(tmp_path: Path) -> None:
    scene = build(tmp_path / "a", state="done")
    assert scene.said() == "refuse evidence"  # the last wave's receipts are missing

    def whole(repo: SimRepository, plan: Plan) -> None:
        receipts = {number: repo.soak(plan, number) for number in range(2)}
        repo.set_gate(plan, open_wave=1, receipts=receipts, state="done")

    assert build(tmp_path / "b", whole).said() == "install"


def test_the_same_bytes_are_parsed_once_and_what_is_refused_is_refused_again() -> None:
    asked: list[bytes] = []

    def reader(raw: bytes) -> int:
        asked.append(raw)
        if raw == b"bad":
            raise Refused("document", expected="a good one", got="another")
        return len(raw)

    large = b"x" * (limits.PARSED_BYTES + 1)
    for raw in (b"small", large):
        assert [parsed(reader, raw) for _ in range(2)] == [len(raw)] * 2
    assert asked == [b"small", large, large]
    for _ in range(2):
        with pytest.raises(Refused):
            parsed(reader, b"bad")
