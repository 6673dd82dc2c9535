"""All scenes of the crash sweep, and which cases of them are taken."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.simulate.fulldisk import Refusal
from tests.simulate.sweep import KINDS, Case, Kind, Scene, every_case, recovery_lengths, traced
from tests.simulate.sweep_errands import ErrandsScene
from tests.simulate.sweep_install import hook_scenes, install_scenes
from tests.simulate.sweep_keys import key_scenes

CAMPAIGN_PAIRS = 22_000
SEED, STEP = 4, 24
_UNRECOVERED = ("renewal", "first_keys")  # no recovery that writes
# What a tmpfs refuses for want of a block, and of an inode. At any other operation the disk is as
# full as at the next one of these.
_TAKES: dict[Refusal, tuple[str, ...]] = {
    "bytes": ("write", "allocate"), "inodes": ("create", "mkdir", "symlink", "link"),
}  # fmt: skip


@dataclass(frozen=True)
class Ground:
    """The scenes, and which operations each takes."""

    swept: tuple[Scene, ...]
    hooked: tuple[Scene, ...]
    traces: dict[str, list[tuple[str, str]]]

    @classmethod
    def make(cls, root: Path) -> Self:
        """Return every scene, each run once without a fault."""
        swept: list[Scene] = [*install_scenes(root), *key_scenes(root), ErrandsScene(root)]
        hooked: list[Scene] = [*hook_scenes(root)]
        traces = {scene.name: traced(scene) for scene in (*swept, *hooked)}
        return cls(tuple(swept), tuple(hooked), traces)

    def cases(self, scenes: Sequence[Scene], kinds: Sequence[Kind] = KINDS) -> list[Case]:
        """Return every case of these scenes."""
        return [
            case
            for scene in scenes
            for case in every_case(scene.name, self.traces[scene.name], kinds)
        ]

    def share(self, count: int) -> list[Case]:
        """Return what CI has the time for, `count` cases or more: every operation, of errors one or
        the other.

        What a kill behind an operation leaves is what one before the next leaves, so of those there
        are as many as make the number, evenly.
        """
        found = self.cases(self.swept, (*KINDS, "edquot"))
        # No room and no quota are one error to the node: `embrasure/descriptor.py`.
        errors: tuple[Kind, ...] = ("eio", "enospc", "eio", "edquot")
        kept = [c for c in found if c.kind not in errors or c.kind == errors[c.at % 4]]
        kept = [case for case in kept if self._is_its_own(case.scene, case.at)]
        # On a disk that stays read-only every place is much like its neighbours.
        kept += self.cases(self.swept, ("erofs",))[::5]
        behind = [case for case in kept if case.kind == "kill_after"]
        kept = [case for case in kept if case.kind != "kill_after"]
        wanted = min(len(behind), max(count - len(kept), len(behind) // 3))
        return kept + [behind[number * len(behind) // wanted] for number in range(wanted)]

    def _is_its_own(self, scene: str, at: int) -> bool:
        """Return whether another scene, or its neighbours, do not say nearly the same.

        A first install that fails is the first install up to its start; one small file of a pack is
        much like the next.
        """
        if scene == "first_crash":
            pairs = zip(self.traces["first"], self.traces[scene], strict=False)
            apart = next((n for n, (one, other) in enumerate(pairs) if one[0] != other[0]), 0)
            return at > apart - 10 or at % 8 == 0
        return scene != "packed" or at % 6 == 0

    def full(self) -> list[Case]:
        """Return each operation that a really full disk refuses, with each way to be full, but for
        what is like another.
        """
        return [
            Case(scene.name, kind, at)
            for scene in self.swept
            for at, (call, _) in enumerate(self.traces[scene.name], start=1)
            for kind, calls in _TAKES.items()
            if call in calls and self._is_its_own(scene.name, at)
        ]

    def scene(self, name: str) -> Scene:
        """Return the scene of this name."""
        return next(one for one in (*self.swept, *self.hooked) if one.name == name)


def pairs(ground: Ground, count: int) -> list[Case]:
    """Return pairs of a crash of an act and one of its recovery, drawn evenly with a fixed seed."""
    scenes = [scene for scene in ground.swept if scene.name not in _UNRECOVERED]
    lengths = {
        scene.name: recovery_lengths(scene, range(1, len(ground.traces[scene.name]) + 1, STEP))
        for scene in scenes
    }
    chosen = random.Random(SEED)  # noqa: S311  # the same pairs each time
    found: list[Case] = []
    while len(found) < count:
        name = chosen.choice(scenes).name
        at = chosen.randrange(1, len(ground.traces[name]) + 1)
        # A neighbour's recovery is as long, or nearly.
        then = chosen.randrange(1, lengths[name][1 + (at - 1) // STEP * STEP] + 1)
        found.append(Case(name, chosen.choice(("kill_before", "kill_after")), at, then))
    return found
