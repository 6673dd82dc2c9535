"""The crash sweeps that CI samples, whole: every fault at every operation, pairs, real disks.

python -m bench.crash_campaign pairs                      # 22,000 pairs of crashes
python -m bench.crash_campaign pairs --from 5000 --to 9000
python -m bench.crash_campaign faults                     # every injected fault at every operation
python -m bench.crash_campaign memory                     # tmpfs: no block, no inode left (root)
python -m bench.crash_campaign ext4                       # the same, and read-only (root, loop)
python -m bench.crash_campaign btrfs                      # a quota (root, loop, btrfs-progs)
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import get_args

from tests.simulate.fulldisk import CODES, DISKS
from tests.simulate.sweep import Case, Kind, Outcome, every_case, sweep
from tests.simulate.sweep_ground import CAMPAIGN_PAIRS, Ground, pairs
from tests.simulate.trees import room

_NEVER = "the fault was never met"
_SLICE = 1_000  # cases between two lines
_KINDS = {
    "memory": ("bytes", "inodes"),
    "ext4": ("bytes", "inodes", "readonly"),
    "btrfs": ("quota",),
}


def cases_of(ground: Ground, what: str) -> list[Case]:
    """Return every case of one kind of campaign, in an order that is always the same."""
    if what == "pairs":
        return pairs(ground, CAMPAIGN_PAIRS)
    kinds: Sequence[Kind] = [kind for kind in get_args(Kind) if kind not in CODES]
    if what in DISKS:
        kinds = [kind for kind in get_args(Kind) if kind in _KINDS[what]]
    return [
        case
        for scene in (*ground.swept, *ground.hooked)
        for case in every_case(scene.name, ground.traces[scene.name], kinds)
        # The secrets of what runs lie in memory; here they would lie on what takes no removal.
        if scene.name != "errands" or case.kind not in ("readonly", "quota")
    ]


def main() -> int:
    """Print figures; return 1 when a promise was broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("pairs", "faults", *DISKS))
    parser.add_argument("--from", type=int, default=0, dest="start", help="begin at this case")
    parser.add_argument("--to", type=int, default=None, dest="end", help="end before this case")
    parser.add_argument("--every", type=int, default=1, help="take one case of so many")
    parser.add_argument("--workers", type=int, default=2, help="so many at once")
    wanted = parser.parse_args()
    began, whole = time.monotonic(), Outcome()
    with room() as root:
        ground = Ground.make(root)
        every = cases_of(ground, wanted.what)
        cases = every[wanted.start : wanted.end : wanted.every]
        print(f"{len(cases)} of {len(every)} cases", flush=True)
        disk = wanted.what if wanted.what in DISKS else ""
        # Workers share a slice in any order, so only behind a whole one can another run go on.
        for first in range(0, len(cases), _SLICE):
            found = sweep(
                (*ground.swept, *ground.hooked), cases[first : first + _SLICE],
                workers=wanted.workers, disk=disk,
            )  # fmt: skip
            if disk == "btrfs":  # blocks are shared there: an install has fewer operations
                unmet = [line for line in found.broken if line.endswith(_NEVER)]
                found.broken = [line for line in found.broken if line not in unmet]
                found.cases, found.unmet = found.cases - len(unmet), found.unmet + len(unmet)
            whole = whole.joined(found)
            print("\n".join(found.broken), end="", flush=True)
            at = wanted.start + min(first + _SLICE, len(cases)) * wanted.every
            print(f"{whole.cases + whole.unmet} cases, {len(whole.broken)} broken in "
                  f"{time.monotonic() - began:.0f} s, next --from {at}", flush=True)  # fmt: skip
    print(f"{whole.by_scene} in {time.monotonic() - began:.0f} s")
    print("\n".join(whole.figures(f"campaign_{wanted.what}")))
    print(f"figure: campaign_{wanted.what}_unmet = {whole.unmet} cases")
    return 1 if whole.broken else 0


if __name__ == "__main__":
    sys.exit(main())
