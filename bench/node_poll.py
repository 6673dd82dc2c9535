"""What a poll that finds nothing costs a pull node: apply's process, and the one that asks for it.

Run by `python -m bench.node_install`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bench.mirror import served
from bench.site import cpu_of, processes, release_of
from embrasure.net.https import MirrorSource
from node.answering import Deaf, NoSource, converse
from node.config import Server
from node.ipc import to_apply
from node.messages import PollAsk, PostedAsk
from node.paths import Paths
from tests.simulate.fleet import APP, SimFleet
from tests.simulate.installer import free_port
from tests.simulate.listener import trust_from
from tests.simulate.running import running, until

MOST_MS = {"with_handshake": 15.0, "without_handshake": 2.0}
LOOKS = 10  # of which a round is the mean


def poll(folder: Path, *, rounds: int, slack: float) -> list[str]:
    """Print what a poll costs that finds nothing new, over real HTTPS; return what is too much.

    The node runs; its own fetch sleeps, and this process asks in its place: verification and
    decision are apply's, the mirror's connection and the conversation are counted here. The best of
    some rounds counts: other work only adds.
    slack: how many times its limit it may cost on a machine that others use
    """
    broken = list[str]()
    fleet = SimFleet(folder)
    with served(folder / "m1", fleet.authority, fleet.repository) as mirror:
        server = Server(name="m1", address=mirror.address)
        pull = fleet.make("n1", mode="pull", port=free_port(), mirrors=(server,))
        listed = fleet.repository.add_release(APP, release=release_of("1.0", files=3, size=100))
        plan = fleet.repository.set_plan(listed, canary=[pull.listed], soak_s=0)
        fleet.repository.set_gate(plan)
        fleet.repository.publish()
        mirror.upload()
        trust = trust_from(fleet.authority)

        def open_source() -> MirrorSource:
            return MirrorSource(mirror.address, name="m1", trust=trust)

        def with_handshake() -> None:
            with closing(open_source()) as source:
                look(pull.paths, source)

        with running(pull) as found:
            until(lambda: pull.paths.current(APP).exists(), seconds=60, what="the install")
            with asleep(processes(found).fetch), closing(open_source()) as source:
                until(lambda: look(pull.paths, source) == "none done", what="rest")
                take_receipts(pull.paths)
                apply = processes(found).apply
                costs = {
                    "with_handshake": least(apply, with_handshake, rounds),
                    "without_handshake": least(apply, lambda: look(pull.paths, source), rounds),
                }
    for name, seconds in costs.items():
        print(f"figure: noop_poll_{name} = {seconds * 1000:.2f} ms", flush=True)
        if seconds * 1000 >= MOST_MS[name] * slack:
            broken.append(f"noop_poll_{name}: {seconds * 1000:.2f}, below {MOST_MS[name]} ms")
    return broken


def look(paths: Paths, source: MirrorSource) -> str:
    """Return what apply found in the source."""
    with to_apply(paths) as channel:
        found = converse(channel, PollAsk(), source, Deaf()).answers
    return " ".join(f"{one.kind} {one.reason}" for one in found)


def take_receipts(paths: Paths) -> None:
    """What the node has told of its install is taken, as by a letterbox: nobody is told again."""
    for rseq in (1, 2):
        with to_apply(paths) as channel:
            converse(channel, PostedAsk(rseqs=(rseq,)), NoSource(), Deaf())


def least(apply: int, work: Callable[[], object], rounds: int) -> float:
    """Return the processor seconds of one `work`, of both processes, in the best round."""
    found = []
    for _ in range(rounds):
        before = cpu_of(apply) + time.process_time()
        for _ in range(LOOKS):
            work()
        found.append((cpu_of(apply) + time.process_time() - before) / LOOKS)
    return min(found)


@contextmanager
def asleep(pid: int) -> Iterator[None]:
    """The process does nothing until the block ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
