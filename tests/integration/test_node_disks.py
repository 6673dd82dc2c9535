"""Real disks that refuse, at every write of a node: no block, no inode, a quota, read-only.

The kernel refuses, nothing is pretended. Each operation that a full tmpfs can refuse is taken, in
every scene of the crash sweep, but for those that are like another's; of ext4 (full, read-only) and
btrfs (quota) some. `python -m bench.crash_campaign ext4` takes every operation there, too.
"""

from __future__ import annotations

import os
import re
import sys

import pytest

from tests.ablation import Ablation
from tests.simulate.disk import missing_need
from tests.simulate.faults import Faults
from tests.simulate.sweep import Case, Kind, Place, in_turns, sweep
from tests.simulate.sweep_ground import Ground
from tests.simulate.trees import room
from tests.source import modules, product

pytestmark = [
    pytest.mark.sweep,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk"),
]
needs_loop = pytest.mark.skipif(bool(missing_need()), reason=f"needs {missing_need()}")
needs_btrfs = pytest.mark.skipif(
    bool(missing_need("btrfs")), reason=f"needs {missing_need('btrfs')}"
)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground.make(tmp_path_factory.mktemp("disks"))


def test_a_full_disk_at_every_write_costs_an_install_and_no_more(ground: Ground) -> None:
    cases = ground.full()
    outcome = sweep(ground.swept, cases, disk="memory", further=in_turns)
    print("\n".join(outcome.figures("full_disk")))
    print(outcome.by_scene)
    assert outcome.broken == []
    assert outcome.cases == len(cases) >= 500
    assert set(outcome.by_scene) == {scene.name for scene in ground.swept}


def spread(ground: Ground, kind: Kind, names: tuple[str, ...], count: int) -> list[Case]:
    """Return some cases of these scenes, evenly over their operations."""
    # A disk that shares blocks takes a few operations less.
    lengths = [(name, len(ground.traces[name]) - 10) for name in names]
    return [
        Case(name, kind, 1 + part * (length - 1) // (count - 1))
        for name, length in lengths
        for part in range(count)
    ]


@needs_loop
def test_an_ext4_that_is_full_or_turns_read_only(ground: Ground) -> None:
    names = ("upgrade", "rollback", "collect", "root")
    cases = [
        case for kind in ("bytes", "inodes", "readonly") for case in spread(ground, kind, names, 4)
    ]
    outcome = sweep(ground.swept, cases, disk="ext4")
    print("\n".join(outcome.figures("full_ext4")))
    assert outcome.broken == []


@needs_btrfs
def test_a_quota_that_is_used_up(ground: Ground) -> None:
    outcome = sweep(ground.swept, spread(ground, "quota", ("upgrade", "root"), 6), disk="btrfs")
    print("\n".join(outcome.figures("full_quota")))
    assert outcome.broken == []


@pytest.mark.misuse
def test_without_the_start_of_what_was_committed_a_full_disk_ends_the_service(
    ground: Ground, ablation: Ablation
) -> None:
    """Control: recovery writes first, and on a full disk that fails at every start."""
    upgrade = [ground.scene("upgrade")]
    trace = ground.traces["upgrade"]
    switched = next(at for at, (_, path) in enumerate(trace, 1) if path.endswith("/current"))
    later = [at for at, (call, _) in enumerate(trace, 1) if call == "create" and at > switched]
    cases = [Case("upgrade", "inodes", at) for at in later]
    assert sweep(upgrade, cases, disk="memory").broken == []
    with ablation("what is committed is started although nothing can be written") as attack:
        attack.without("node.recovery._keep_serving", lambda ground, app, record: None)
        attack.succeeded(
            [line for line in sweep(upgrade, cases, disk="memory").broken if "I8" in line]
        )


# Who writes on a node: met by the sweep, or why not.

_HOLDS = re.compile(r"\b(Folder|fsops|replace_file|create_file|PairStore|FloorStore)\b")
_READS, _START = "reads, or lets another module write", "at a start: pairs, and the recovery of all"
_WORKPLACE = "never on a node"
_ELSEWHERE = {
    "embrasure/bundle/build.py": _WORKPLACE,
    "embrasure/bundle/folder.py": _WORKPLACE,
    "embrasure/bundle/place.py": "what another module writes through: node/early.py",
    "embrasure/bundle/tree.py": _WORKPLACE,
    "embrasure/trust/carry.py": _WORKPLACE,
    "embrasure/trust/folder.py": _READS,
    "embrasure/trust/listing.py": _READS,
    "node/accept.py": _START,
    "node/agent.py": "fetch: no state of an install",
    "node/bubblewrap.py": _READS,
    "node/companions.py": "who stands beside an app, in memory",
    "node/care.py": _READS,
    "node/fetching.py": _READS,
    "node/ground.py": _READS,
    "node/halfmade.py": "before there is a node, what a making that was cut off has left",
    "node/installer.py": _READS,
    "node/ipc.py": "sockets, in memory",
    "node/judge.py": _READS,
    "node/leftovers.py": _START,
    "node/material.py": _READS,
    "node/mending.py": "a person runs it, and again if it fails",
    "node/ownership.py": _START,
    "node/records.py": _READS,
    "node/recovery.py": _READS,
    "node/releases.py": _READS,
    "node/repair.py": "a person runs it, and again if it fails: tests/unit/node/test_repair.py",
    "node/rollback.py": _READS,
    "node/run.py": "which ports are open, in memory",
    "node/serving.py": "a second copy, at a start, as far as the disk lets it: apply_main.mend",
    "node/setup.py": "a person runs it once, before there is a node",
    "node/supervisor.py": "a mark of each process, in memory: tests/integration/test_node_kill.py",
    "node/untouched.py": _READS,
    "node/verify.py": _READS,
}


def test_every_module_that_writes_on_a_node_is_swept(ground: Ground) -> None:
    """Journal, receipts, floors, trust store, secrets, figures, logs: none can be forgotten."""
    port = {f"embrasure/{name}.py" for name in ("fsops", "fs", "folder", "descriptor", "removal")}
    places = {str(module.path): module.name for module in product()}
    met = set[str]()

    def note(_: int) -> None:
        frame = sys._getframe(1)
        while (name := places.get(frame.f_code.co_filename)) is None or name in port:
            assert frame.f_back is not None
            frame = frame.f_back
        met.add(name)

    for scene in ground.swept:
        with room() as top:
            place = Place(scene, top)
            place.reset()
            scene.act(Faults(each=note))
    parts = ("bundle", "net", "secret", "trust")
    on_node = modules("node", *(f"embrasure/{part}" for part in parts))
    holding = {module.name for module in on_node if _HOLDS.search(module.text)}
    assert met <= holding | {"embrasure/trust/workflow/updater.py"}
    assert holding - met == set(_ELSEWHERE)
    print(f"figure: swept_writers = {len(met)} modules")
