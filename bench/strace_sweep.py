"""SIGKILL at every mutating system call of the real `embrasure node apply`; needs strace.

python -m bench.strace_sweep              # every point of every way: the better part of an hour
python -m bench.strace_sweep --every 10   # one point of ten
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.simulate.strace import WAYS, Strace


def main() -> int:
    """Print figures; return 1 when a promise was broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="take one point of so many")
    parser.add_argument("--way", choices=WAYS, action="append", help="this way alone (repeat)")
    wanted = parser.parse_args()
    cases, broken = 0, list[str]()
    with tempfile.TemporaryDirectory() as folder:
        strace = Strace(Path(folder))
        strace.prepare(wanted.way or WAYS)
        for name in strace.ways:
            points = strace.points(name)[:: wanted.every]
            _, found = strace.sweep(points)
            for said in found:
                print(said)
            print(f"{name}: {len(points)} points, {len(found)} broken", flush=True)
            cases, broken = cases + len(points), broken + found
    print(f"figure: strace_sweep_cases = {cases} cases")
    print(f"figure: strace_sweep_broken = {len(broken)} cases")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
