"""A stolen fetch, and whoever else speaks to apply: heard, and given nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from embrasure import limits
from embrasure.errors import Unavailable
from node import ipc
from node.answering import Deaf, NoSource, converse
from node.desk import Desk
from node.ipc import SOCKET
from node.messages import StatusAsk
from tests.ablation import Ablation
from tests.integration.test_node_units import unit
from tests.simulate.fleet import SimFleet
from tests.simulate.hooks import kinds, missing
from tests.simulate.installer import free_port
from tests.simulate.production import FETCH, STRANGER, in_production, passable
from tests.simulate.running import answers, until
from tests.simulate.strangers import CONNECT, PYTHON, as_user
from tests.unit.node.test_desk import Slow, Still

pytestmark = pytest.mark.skipif(not kinds(), reason=missing())


@pytest.fixture
def fleet() -> Iterator[SimFleet]:
    with passable() as top:
        yield SimFleet(top)


@pytest.mark.misuse
def test_a_socket_takes_only_the_users_it_was_told(fleet: SimFleet, ablation: Ablation) -> None:
    folder = fleet.folder / "run"
    folder.mkdir(mode=0o711)
    listener = ipc.Listener(folder, SOCKET, group=FETCH.gid)
    (folder / SOCKET).chmod(0o666)

    def asks(allowed: frozenset[int]) -> bool:
        words = ["setpriv", f"--reuid={STRANGER.uid}", f"--regid={STRANGER.gid}", "--clear-groups"]
        process = subprocess.Popen(
            [*words, PYTHON, "-I", "-S", "-c", CONNECT, str(folder / SOCKET)],
            stdout=subprocess.DEVNULL,
        )
        channel = listener.accept(allowed, seconds=20)
        if channel is not None:
            channel.close()
        process.wait(20)
        return channel is not None

    try:
        assert not asks(frozenset({0, FETCH.uid}))
        with ablation("the user ids") as attack:
            attack.without("node.ipc.check_peer")
            attack.succeeded(asks(frozenset({0, FETCH.uid})))
    finally:
        listener.close()


CROWD = """
import socket, sys, time
ways = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(int(sys.argv[2]))]
for way in ways: way.connect(sys.argv[1])
print("here", flush=True)
time.sleep(60)
"""


@pytest.mark.misuse
def test_a_crowd_of_fetch_leaves_the_owner_his_room(fleet: SimFleet, ablation: Ablation) -> None:
    """A stolen fetch held every conversation, and `node status` said that no agent runs."""
    folder, stop = fleet.folder / "run", threading.Event()
    folder.mkdir(mode=0o711)
    desk = Desk(Slow(), Still(), allowed=frozenset({0, FETCH.uid}))
    words = ["setpriv", f"--reuid={FETCH.uid}", f"--regid={FETCH.gid}", "--clear-groups", PYTHON]
    with closing(ipc.Listener(folder, SOCKET, group=FETCH.gid)) as listener:
        serving = threading.Thread(target=desk.serve, args=(listener, stop))
        serving.start()

        def is_heard() -> bool:
            """Whether the owner is, while as many of fetch are there as have room."""
            crowd = subprocess.Popen(
                [
                    *words,
                    "-I",
                    "-S",
                    "-c",
                    CROWD,
                    str(folder / SOCKET),
                    str(limits.CONVERSATIONS + 2),
                ],
                stdout=subprocess.PIPE,
            )
            with crowd:
                assert crowd.stdout and crowd.stdout.readline() == b"here\n"
                time.sleep(0.3)
                try:
                    with ipc.connect(folder, SOCKET, frozenset({0})) as channel:
                        return converse(channel, StatusAsk(), NoSource(), Deaf()).state is not None
                except Unavailable:
                    return False
                finally:
                    crowd.kill()

        try:
            assert is_heard()
            with ablation("a room for each user") as attack:
                desk._rooms[0] = desk._rooms[FETCH.uid]
                attack.succeeded(not is_heard())
        finally:
            stop.set()
            serving.join()


WRITE = """
import sys
for path in sys.argv[1:]:
    try: open(path, "wb").write(b"x"); print("wrote", path)
    except OSError: pass
"""
FORGE = """
import base64, json, os, socket, sys
sock, ask = sys.argv[1], json.loads(sys.argv[2])
way = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
way.connect(sock)
way.settimeout(20)
way.send(json.dumps(ask, separators=(",", ":")).encode())
said = []
while raw := way.recv(65536):
    note = json.loads(raw)
    said.append(note["is"] + " " + note.get("reason", ""))
    if note["is"] in ("failure", "done", "failed"): break
print(said)
"""


@pytest.mark.long
@pytest.mark.misuse
def test_a_stolen_fetch_installs_nothing_and_signs_nothing(
    fleet: SimFleet, ablation: Ablation
) -> None:
    port = free_port()
    node = in_production(fleet, "node", port=port)
    paths = node.paths
    plan, gate = fleet.publish(node, "1")
    with unit(node, "apply"), unit(node, "fetch"):
        asyncio.run(fleet.gateway(node).order(fleet.order(node, plan, gate)))
        assert until(lambda: answers(port), what="the app")
        before = [path.name for path in paths.outbox.iterdir()]
        release = paths.current("shop").resolve()
        inside = [release / "config" / "version", release / "new", paths.current("shop"),
                  paths.blobs / "new", paths.journal / "shop.json", paths.outbox / "new",
                  paths.floors / "a", paths.tls_bundle, paths.tls_denials, paths.node_toml,
                  paths.app_toml("shop"), paths.holds, paths.run / "x", paths.shared("shop") / "x",
                  paths.receipt_key, paths.seal_key]  # fmt: skip
        assert as_user(FETCH.uid, WRITE, *inside) == ""
        # It says to apply what it likes: an order by nobody, and one that was changed.
        order = fleet.order(node, plan, gate)
        for envelope in (b"{}", order.replace(b'"sig"', b'"gis"'), order[:-20] + b"0" * 18 + b"}]"):
            ask = {"is": "order", "envelope": base64.b64encode(envelope).decode()}
            said = as_user(FETCH.uid, FORGE, paths.run / SOCKET, json.dumps(ask))
            assert "committed" not in said and "failure" in said, said
        assert [path.name for path in paths.outbox.iterdir()] == before
        assert answers(port) == "1"
        with ablation("its own user") as attack:
            victim = paths.blobs / "new"
            attack.succeeded("wrote" in as_user(0, WRITE, victim))
            victim.unlink()
