"""What apply keeps of root's rights, in each of its threads, and what no app can take from it."""

from __future__ import annotations

import subprocess

import pytest

from node import processes
from node.launch import TASKS, hidden
from tests.ablation import Ablation
from tests.simulate.hooks import kinds, missing
from tests.simulate.production import SHOP
from tests.simulate.running import PROGRAM
from tests.simulate.strangers import PYTHON

pytestmark = pytest.mark.skipif(not kinds(), reason=missing())
CAPABILITIES = (1 << 0) | (1 << 6) | (1 << 7)
THREADS = """
import sys, threading
end, count = threading.Event(), 0
try:
    for count in range(int(sys.argv[1])):
        threading.Thread(target=end.wait, daemon=True).start()
except RuntimeError: pass
print(count, flush=True)
end.set()
"""


@pytest.mark.long
@pytest.mark.misuse
def test_one_app_does_not_use_up_the_processes_of_all(ablation: Ablation) -> None:
    """Apply and every other app live beside it: a thread that apply cannot have stops them all."""
    code, most = [PYTHON, "-I", "-S", "-c", THREADS, str(TASKS + 50)], TASKS
    words = ["setpriv", f"--reuid={SHOP.uid}", f"--regid={SHOP.gid}", "--clear-groups"]

    def threads(command: list[str]) -> int:
        done = subprocess.run(command, env=hidden({"PATH": "/usr/bin"}), stdout=subprocess.PIPE,
                              timeout=30)  # fmt: skip
        return int(done.stdout)

    assert threads(processes.launched(code, SHOP)) < most
    with ablation("its own bound") as attack:
        attack.succeeded(threads([*words, *code]) >= most)


@pytest.mark.misuse
def test_apply_makes_no_network_socket(ablation: Ablation) -> None:
    code = (
        "import socket, sys\n"
        "from embrasure.sandbox import CAPABILITIES, keep_capabilities, leave_the_network\n"
        "if sys.argv[1] == 'apply':\n"
        "    keep_capabilities(CAPABILITIES); leave_the_network()\n"
        "for family in (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET):\n"
        "    kind = socket.SOCK_RAW if family == socket.AF_PACKET else socket.SOCK_STREAM\n"
        "    try: socket.socket(family, kind); print('made')\n"
        "    except OSError as problem: print(problem.errno)\n"
        "socket.socket(socket.AF_UNIX).close(); print('unix')"
    )

    def said(who: str) -> list[str]:
        done = subprocess.run([PROGRAM[0], "-c", code, who], capture_output=True, text=True)
        return done.stdout.split()

    assert said("apply") == ["13", "13", "13", "unix"]
    with ablation("the filter") as attack:
        attack.succeeded(said("nobody")[:2] == ["made", "made"])


@pytest.mark.misuse
def test_no_thread_of_apply_keeps_what_the_others_gave_up(ablation: Ablation) -> None:
    """All threads share one memory: code in one of them has the rights of any."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from embrasure.sandbox import CAPABILITIES, keep_capabilities\n"
        "from node.service import Signals\n"
        "signals = Signals()\n"
        "stop = signals.stop() if sys.argv[1] == 'before' else None\n"
        "keep_capabilities(CAPABILITIES)\n"
        "stop = stop or signals.stop()\n"
        "for thread in Path('/proc/self/task').iterdir():\n"
        "    lines = (thread / 'status').read_text().splitlines()\n"
        "    print(*(line.split()[1] for line in lines if line.startswith('CapEff')))"
    )

    def held(when: str) -> set[int]:
        done = subprocess.run([PROGRAM[0], "-c", code, when], capture_output=True, text=True)
        first, second = done.stdout.split()
        return {int(first, 16), int(second, 16)}

    assert held("after") == {CAPABILITIES}
    with ablation("the moment at which the thread for signals starts") as attack:
        attack.succeeded(any(rights & 1 << 5 for rights in held("before")))  # CAP_KILL, and all
