"""SIGKILL at every mutating system call of the real `embrasure node apply`; needs strace.

python -m bench.strace_sweep                       # every point of every way: about half an hour
python -m bench.strace_sweep --every 10            # one point of ten
python -m bench.strace_sweep --from 400 --to 800   # goes on where another run was stopped
python -m bench.strace_sweep --call openat         # where a file is made, or emptied
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulate.strace import CALLS, WAYS, Point, Strace
from tests.simulate.trees import room

_TELL = 50  # points between two lines


def main() -> int:
    """Print figures; return 1 when a promise was broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="take one point of so many")
    parser.add_argument("--way", choices=WAYS, action="append", help="this way alone (repeat)")
    parser.add_argument("--call", choices=CALLS, action="append", help="this call alone (repeat)")
    parser.add_argument("--from", type=int, default=0, dest="start", help="begin at this point")
    parser.add_argument("--to", type=int, default=None, dest="end", help="end before this point")
    parser.add_argument("--workers", type=int, default=1, help="so many at once")
    wanted = parser.parse_args()
    done, began = Counter[str](), time.monotonic()

    def tell(point: Point, wrong: str) -> None:
        done[point.way] += 1
        if wrong:
            print(wrong, flush=True)
        if done.total() % _TELL == 0:
            # Several workers are at several places: only one knows how far all is done.
            at = wanted.start + done.total() * wanted.every
            next_one = f", next --from {at}" if wanted.workers == 1 else ""
            print(f"{dict(done)} in {time.monotonic() - began:.0f} s{next_one}", flush=True)

    with room() as folder:
        strace = Strace(folder)
        strace.prepare(wanted.way or WAYS)
        every = [point for name in strace.ways for point in strace.points(name)]
        every = [point for point in every if point.call in (wanted.call or CALLS)]
        points = every[wanted.start : wanted.end : wanted.every]
        print(f"figure: strace_sweep_points = {len(every)} system calls", flush=True)
        killed, broken = strace.sweep(points, workers=wanted.workers, done=tell)
    print(f"{dict(done)} in {time.monotonic() - began:.0f} s")
    print(f"figure: strace_sweep_cases = {len(points)} cases")
    print(f"figure: strace_sweep_killed = {killed} cases")
    print(f"figure: strace_sweep_broken = {len(broken)} cases")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
