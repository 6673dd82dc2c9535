"""A wrong denial lifted in the trust folder: what drops, what lasts, what the next one lists."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from embrasure.errors import Misuse
from embrasure.trust import layout, policy
from embrasure.trust.denied import denied_sets, merge
from embrasure.trust.floors import Union
from pki import denials, lifting, store
from pki.folder import TrustFolder
from tests.ablation import Ablation
from tests.simulate.ceremony import add_environment, hold, sign_and_merge

PLAN, OTHER = "a" * 64, "b" * 64
NODE = "n-" + "a" * 26


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrustFolder, Callable[[], datetime]]:
    from embrasure.clock import now

    trust = hold(tmp_path_factory.mktemp("trust") / "t", now)
    sign_and_merge(trust, "alice", "bob", at=now())
    add_environment(trust, "prod", now)
    sign_and_merge(trust, "alice", "bob", at=now())
    return trust, now


def revoke(trust: TrustFolder, clock: Callable[[], datetime], **what: list[str]) -> None:
    named = {name: what.get(name, []) for name in ("plans", "manifests", "keys", "nodes")}
    denials.revoke(trust, "prod", denials.denial(**named), reason="", clock=clock)
    sign_and_merge(trust, "alice", at=clock())


def revoked(trust: TrustFolder) -> policy.Revocations:
    raw = trust.documents(layout.REVOCATIONS)[layout.revocations_path("prod")]
    return policy.parse_revocations(raw)


def test_a_wrong_denial_is_lifted_and_every_true_one_lasts(
    made: tuple[TrustFolder, Callable[[], datetime]],
) -> None:
    trust, clock = made
    revoke(trust, clock, plans=[PLAN])
    revoke(trust, clock, nodes=[NODE])
    listed = lifting.denials_json(trust, "prod")
    assert [(one["entry"], one["by"]) for one in listed] == [
        (PLAN, "revocations"),
        (NODE, "revocations"),
    ]
    wrong = denials.denial(plans=[], manifests=[], keys=[], nodes=[NODE])
    found = lifting.lift(trust, "prod", wrong, through=None, clock=clock)
    assert (found.dropped["nodes"], found.kept["plans"], found.kept["nodes"]) == (
        (NODE,), (PLAN,), (),
    )  # fmt: skip
    # One signature is not enough to lift.
    sign_and_merge_needs_two(trust, clock)
    rules = lifting.policy_of(trust, "prod")
    version = trust.roles()[layout.REVOCATIONS]
    assert (rules.denials_reset_through, rules.denied.plans) == (version, (PLAN,))
    # What a node makes of both: the plan stays denied, the node is free.
    union = merge(
        Union(nodes={NODE: version}, plans={PLAN: version}), revoked(trust), version=version,
        reset_through=rules.denials_reset_through,
    )  # fmt: skip
    both = denied_sets(rules, union)
    assert both.plans == {PLAN} and not both.nodes
    # The next denial does not list again what was lifted.
    revoke(trust, clock, plans=[OTHER])
    assert (revoked(trust).plans, revoked(trust).nodes) == ((OTHER,), ())
    assert lifting.union_of(trust, "prod").plans == {OTHER: version + 1}
    with pytest.raises(Misuse):
        lifting.lift(trust, "prod", None, through=version - 1, clock=clock)
    # Before an on-call key goes, what only revocations deny is taken into the policy.
    assert lifting.keep(trust, "prod", clock=clock).kept["plans"] == (OTHER,)
    sign_and_merge(trust, "alice", "bob", at=clock())
    assert lifting.policy_of(trust, "prod").denied.plans == (PLAN, OTHER)
    # All at once: a hostile version that this folder never saw.
    every = lifting.lift(trust, "prod", None, through=900, clock=clock)
    assert every.through == 900 and every.dropped["plans"] == (OTHER,)


def sign_and_merge_needs_two(trust: TrustFolder, clock: Callable[[], datetime]) -> None:
    with pytest.raises(ValueError, match="fleet-prod"):
        sign_and_merge(trust, "alice", at=clock())
    sign_and_merge(trust, "bob", at=clock())


def test_the_trust_folder_itself_is_what_is_carried(
    made: tuple[TrustFolder, Callable[[], datetime]], tmp_path: Path
) -> None:
    from embrasure.trust.carry import carried, lay_down
    from embrasure.trust.listing import TrustFolderSource, read_listing

    trust, _ = made
    files = carried(trust.path)
    roles = trust.roles()
    for role in (layout.TARGETS, layout.REVOCATIONS, "fleet-prod"):
        assert layout.metadata_file(role, roles[role]) in files
    assert not any("keys/" in path or path.startswith("drafts/") for path in files)
    lay_down(files, tmp_path / "stick")
    assert dict(read_listing(TrustFolderSource(tmp_path / "stick"))) == {
        role: version for role, version in roles.items() if role != layout.ROOT
    }
    assert carried(tmp_path / "stick") == files


@pytest.mark.misuse
def test_a_denial_after_a_far_reset_still_denies(
    made: tuple[TrustFolder, Callable[[], datetime]], ablation: Ablation
) -> None:
    """A number was burnt; the policy reset up to it. The next no must not stand below that."""
    trust, clock = made
    lifting.lift(trust, "prod", None, through=5_000, clock=clock)
    what = denials.denial(plans=["c" * 64], manifests=[], keys=[], nodes=[])

    def denied_by(version: int) -> bool:
        (draft,) = (one for one in trust.drafts() if one.role == layout.REVOCATIONS)
        said = policy.parse_revocations(draft.documents[layout.revocations_path("prod")])
        rules = lifting.policy_of(trust, "prod")
        union = merge(Union(), said, version=version, reset_through=rules.denials_reset_through)
        return "c" * 64 in denied_sets(rules, union).plans

    # The reset is still a draft here, and is signed with it or after it.
    before = max(store.versions(trust.path, layout.REVOCATIONS))
    (draft,) = denials.revoke(trust, "prod", what, reason="", clock=clock)
    assert draft.version == 5_001 and denied_by(draft.version)
    with ablation("a number above the reset") as attack:
        # The number that comes next is signed, delivered, and heard by nobody.
        attack.succeeded(not denied_by(before + 1))
    sign_and_merge(trust, "alice", "bob", at=clock())
    assert max(store.versions(trust.path, layout.REVOCATIONS)) == 5_001
    assert [one.role for one in trust.verify(clock()) if one.version == 5_001] == ["revocations"]
    revoke(trust, clock, plans=["d" * 64])
    assert max(store.versions(trust.path, layout.REVOCATIONS)) == 5_002
    with pytest.raises(Misuse) as told:
        lifting.lift(trust, "prod", None, through=999_999_999, clock=clock)
    assert "on-call key" in told.value.hint
