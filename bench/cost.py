"""What one look at a repository costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """requests; bytes: of bodies; cpu: processor seconds of this process, all threads."""

    requests: int
    bytes: int
    cpu: float


def spent(work: Callable[[], object]) -> float:
    """Return the processor seconds that `work` takes."""
    before = time.process_time()
    work()
    return time.process_time() - before


def typical(found: Sequence[Cost]) -> Cost:
    """Return the median CPU, and the most requests and bytes, of many equal looks."""
    return Cost(
        max(one.requests for one in found),
        max(one.bytes for one in found),
        statistics.median(one.cpu for one in found),
    )
