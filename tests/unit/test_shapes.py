"""A shape that several threads use for the first time at once: found by the random kills."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.ablation import Ablation

# A node that has just started reads its journal in one thread, and a question in another.
RACE = """
import sys, threading
from embrasure.errors import EmbrasureError
from embrasure.trust import documents
from node.journal import Line
if "bare" in sys.argv:
    documents.prepare = lambda shape: None
sys.setswitchinterval(1e-6)
together = threading.Barrier(4)
def use():
    together.wait()
    for _ in range(3):
        try:
            documents.convert({"record": {"v": 1}, "sum": "x"}, Line, "line")
        except EmbrasureError:
            pass
threads = [threading.Thread(target=use) for _ in range(4)]
[one.start() for one in threads]
[one.join() for one in threads]
"""


def ended(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-c", RACE, *arguments], check=False).returncode


@pytest.mark.misuse
def test_threads_that_use_a_shape_first_at_once_crash_nothing(ablation: Ablation) -> None:
    assert [ended() for _ in range(6)] == [0] * 6
    with ablation("the shape made ready by one thread") as attack:
        attack.succeeded(any(ended("bare") == -signal.SIGSEGV for _ in range(40)))
