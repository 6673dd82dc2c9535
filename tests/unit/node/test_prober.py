"""Probes of every network kind against hostile targets, and the process that asks in production."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import grpc
import msgspec
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from embrasure.bundle.manifest import FileAgeProbe, GrpcProbe
from embrasure.errors import Refused
from embrasure.trust.documents import convert
from node import probe, prober, processes
from node.probe import Target
from node.probing import Prober
from node.users import User
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller
from tests.simulate.releases import make_release

RELEASE = "ab" * 8
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SHOP = User(31012, 31012)  # of no other test


def asked(kind: str, port: int, **more: object) -> dict[str, object]:
    """Return a question about this process, which listens itself."""
    return {
        "kind": kind, "name": "web", "port": port, "seconds": 1.0, "release": RELEASE,
        "members": [os.getpid()], "path": "/", "status": 200, "service": "", **more,
    }  # fmt: skip


@contextmanager
def answering(reply: Callable[[socket.socket], None]) -> Iterator[tuple[int, list[int]]]:
    """Yield a port where each connection is given to `reply`, and a list that grows with them."""
    server, count = socket.create_server(("127.0.0.1", 0)), list[int]()

    def serve() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            count.append(1)
            with peer, closing(peer):
                try:
                    peer.recv(4096)
                    reply(peer)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1], count
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


def well(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def messages() -> tuple[type[Message], type[Message]]:
    """Return request and response of grpc.health.v1 as protobuf itself makes them."""
    file = descriptor_pb2.FileDescriptorProto(name="health.proto", package="h", syntax="proto3")
    request = file.message_type.add(name="Request")
    request.field.add(name="service", number=1, type=9, label=1)
    response = file.message_type.add(name="Response")
    response.field.add(name="status", number=1, type=5, label=1)  # an enum is a varint, too
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = message_factory.GetMessageClassesForFiles(["health.proto"], pool)
    return found["h.Request"], found["h.Response"]


UNKNOWN, SERVING, NOT_SERVING = range(3)


@contextmanager
def health_server(
    services: Mapping[str, int], *, delay: float = 0, zeros: int = 0
) -> Iterator[int]:
    """Yield the port of a gRPC server that answers grpc.health.v1 for these services.

    zeros: so many come behind each answer, and all of it is compressed
    """
    request_type, response_type = messages()

    def check(request: Any, context: grpc.ServicerContext) -> Message:
        time.sleep(delay)
        if request.service not in services:
            context.set_code(grpc.StatusCode.NOT_FOUND)
        if zeros:
            context.set_compression(grpc.Compression.Gzip)
        return response_type(status=services.get(request.service, UNKNOWN))

    method: Any = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=request_type.FromString,
        response_serializer=lambda said: said.SerializeToString() + bytes(zeros),
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method}),)
    )
    local = grpc.local_server_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    port = server.add_secure_port("127.0.0.1:0", local)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(10)


def test_a_grpc_app_says_whether_it_serves() -> None:
    with health_server({"": SERVING, "shop": NOT_SERVING, "odd": UNKNOWN}) as port:
        assert prober.check(asked("grpc", port)) == ""
        assert "not serving" in prober.check(asked("grpc", port, service="shop"))
        assert "not serving" in prober.check(asked("grpc", port, service="odd"))
        assert "NOT_FOUND" in prober.check(asked("grpc", port, service="bank"))
    assert "UNAVAILABLE" in prober.check(asked("grpc", port))


GRPC_APP = b"""\
import os, threading
from concurrent.futures import ThreadPoolExecutor
import grpc
serving = b"\\x08\\x01" if open("config/mode").read() == "good" else b"\\x08\\x02"
check = grpc.unary_unary_rpc_method_handler(lambda request, context: serving)
server = grpc.server(ThreadPoolExecutor(2))
server.add_generic_rpc_handlers(
    (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),))
local = grpc.local_server_credentials(grpc.LocalConnectionType.LOCAL_TCP)
server.add_secure_port("127.0.0.1:" + os.environ["EMBRASURE_PORT_WEB"], local)
server.start()
threading.Event().wait()
"""


def test_a_release_with_a_grpc_probe_is_installed_and_one_that_does_not_serve_goes_back(
    bench: SimInstaller,
) -> None:
    one = GrpcProbe(port="web", service="", interval_ms=50, timeout_ms=3000, start_s=15, passes=2)

    def publish(version: str, mode: bytes, start_s: int) -> None:
        files = {"code/main.py": GRPC_APP, "config/mode": mode}
        changed = msgspec.structs.replace(one, start_s=start_s)
        bench.publish(release=make_release(
            "shop", files, version=version, argv=("python3", "code/main.py"), probes=[changed]
        ))  # fmt: skip

    publish("1.0", b"good", 15)
    assert bench.poll() == "committed"
    publish("2.0", b"bad", 2)
    assert bench.poll() == "rolled_back probe"


@pytest.mark.misuse
def test_a_grpc_answer_of_another_process_does_not_count(ablation: Ablation) -> None:
    with health_server({"": SERVING}) as port:
        assert "another process" in prober.check(asked("grpc", port, members=[]))
        with ablation("who holds the port") as attack:
            attack.without("node.listening.is_held_by", lambda port, pids: True)
            attack.succeeded(prober.check(asked("grpc", port, members=[])) == "")


@pytest.mark.misuse
def test_a_compressed_grpc_answer_is_not_inflated(ablation: Ablation) -> None:
    with health_server({"": SERVING}, zeros=2000) as port:
        assert "gRPC INTERNAL" in prober.check(asked("grpc", port))
        with ablation("the refusal of every encoding") as attack:
            bounds = [one for one in prober._GRPC if "compression" not in one[0]]
            attack.without("node.prober._GRPC", bounds)
            # It was inflated, and read: two thousand bytes too many.
            attack.succeeded("not serving" in prober.check(asked("grpc", port)))


@pytest.mark.misuse
def test_a_slow_grpc_answer_takes_no_longer_than_its_time(ablation: Ablation) -> None:
    with health_server({"": SERVING}, delay=1.5) as port:
        began = time.monotonic()
        assert "DEADLINE_EXCEEDED" in prober.check(asked("grpc", port, seconds=0.3))
        assert time.monotonic() - began < 1.2
        with ablation("its time") as attack:
            attack.succeeded(prober.check(asked("grpc", port, seconds=20.0)) == "")


@pytest.mark.misuse
def test_an_app_that_stops_its_prober_holds_no_install_up(ablation: Ablation) -> None:
    """They have one user; and what is asked about thousands of processes is longer than a pipe."""
    asked = {"kind": "tcp", "name": "web", "port": 9, "seconds": 0.2, "release": "0" * 16,
             "members": list(range(1_000_000, 1_009_500))}  # fmt: skip

    def ask() -> bool:
        """Return whether a stopped prober was given up, in a time that is longer than it has."""
        ended = threading.Event()
        with closing(Prober(None)) as found:
            assert found.check({**asked, "members": []}).endswith("refused")
            os.kill(found._process.pid, signal.SIGSTOP)
            asking = threading.Thread(target=lambda: ended.set() if found.check(asked) else None)
            asking.start()
            in_time = ended.wait(3)
            found._process.kill()
            asking.join()
        return in_time

    assert ask()
    with ablation("the time for a question") as attack:

        def patiently(pipe: IO[bytes], line: bytes, until: float) -> None:
            os.set_blocking(pipe.fileno(), True)
            pipe.write(line)

        attack.without("node.probing._tell", patiently)
        attack.succeeded(not ask())


@pytest.mark.misuse
def test_no_redirect_is_followed(ablation: Ablation) -> None:
    with answering(well) as (elsewhere, count):
        head = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{elsewhere}/\r\n\r\n".encode()
        with answering(lambda peer: peer.sendall(head)) as (port, _):
            assert "status 302" in prober.check(asked("http", port))
            assert not count
            with (
                ablation("one answer of one server") as attack,
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply,
            ):
                attack.succeeded(reply.status == 200 and count)


@pytest.mark.misuse
def test_an_endless_answer_is_not_read(ablation: Ablation) -> None:
    def endless(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(2000):
            peer.sendall(b"x" * 65536)

    def headless(peer: socket.socket) -> None:
        for _ in range(2000):
            peer.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 65536)

    with answering(endless) as (port, _):
        began = time.monotonic()
        assert prober.check(asked("http", port, seconds=20.0)) == ""
        assert time.monotonic() - began < 5
    with answering(headless) as (port, _):
        assert "no HTTP answer" in prober.check(asked("http", port, seconds=20.0))
        with ablation("the end of reading") as attack:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as way:
                way.sendall(b"GET / HTTP/1.1\r\n\r\n")
                held = 0
                while held < 16 << 20 and (piece := way.recv(1 << 20)):
                    held += len(piece)
            attack.succeeded(held >= 16 << 20)


@pytest.mark.misuse
def test_an_old_process_that_shares_the_port_is_seen(ablation: Ablation) -> None:
    code = (
        "import socket, sys, time\n"
        "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print('up', flush=True)\n"
        "time.sleep(600)"
    )
    with socket.socket() as new:
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        new.bind(("127.0.0.1", 0))
        new.listen()
        port = new.getsockname()[1]
        assert prober.check(asked("tcp", port)) == ""
        old = subprocess.Popen(
            ["/usr/bin/python3", "-I", "-S", "-c", code, str(port)], stdout=subprocess.PIPE
        )
        try:
            assert old.stdout is not None and old.stdout.readline() == b"up\n"
            assert "another process" in prober.check(asked("tcp", port))
            with ablation("every socket of the port") as attack:
                # One of ours is not enough: the kernel deals connections out to both.
                attack.without("node.listening.listeners", only_mine)
                attack.succeeded(prober.check(asked("tcp", port)) == "")
        finally:
            old.kill()
            old.wait()
            if old.stdout is not None:
                old.stdout.close()


def only_mine(port: int) -> frozenset[int]:
    """What a look at one's own sockets says."""
    from node import listening

    return frozenset(
        inode for inode, _ in listening._first(port, None)
        if inode in listening.sockets_of([os.getpid()])
    )  # fmt: skip


def test_the_age_of_a_file_counts_from_the_start(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    one = FileAgeProbe(path="beat", max_age_s=5, interval_ms=10, timeout_ms=500, start_s=1,
                       passes=1)  # fmt: skip

    def said(since: float) -> str:
        aimed = Target(ports={}, release=RELEASE, env={}, cwd=tmp_path, members=frozenset,
                       is_alive=lambda: True, argv=list, shared=tmp_path, since=since)  # fmt: skip
        return probe.ask(one, aimed)

    now = time.time()
    assert "No such file" in said(now)
    beat.write_text("1")
    assert said(now - 60) == ""
    assert "not written since" in said(now + 60), "one of the old release proves nothing"
    os.utime(beat, (now - 30, now - 30))
    assert "30 s old" in said(now - 60)
    os.utime(beat, (now + 3600, now + 3600))
    assert "old" in said(now - 60), "a time to come is no proof"
    beat.unlink()
    beat.symlink_to("/etc/hostname")
    assert "no regular file" in said(0)


@pytest.mark.parametrize("path", ["../keys", "/etc/passwd", "a//b", "-x", "a/../b", ""])
def test_a_file_probe_stays_in_the_data_of_its_app(path: str) -> None:
    one = {"kind": "file-age", "path": path, "max_age_s": 5, "interval_ms": 10, "timeout_ms": 500,
           "start_s": 1, "passes": 1}  # fmt: skip
    with pytest.raises(Refused):
        make_release("shop", probes=[convert(one, FileAgeProbe, "probe")])


def test_a_grpc_probe_names_a_port_of_the_manifest() -> None:
    made = GrpcProbe(port="api", service="", interval_ms=10, timeout_ms=500, start_s=1, passes=1)
    with pytest.raises(Refused) as caught:
        make_release("shop", probes=[made])
    assert caught.value.reason == "not-declared"


@needs_root
@pytest.mark.misuse
def test_the_prober_is_the_apps_user_and_no_other_process_of_it_looks_in(
    ablation: Ablation,
) -> None:
    asking = Prober(SHOP)
    try:
        with answering(well) as (port, _):
            # A socket of root's is not seen by the app's user: no proof, so no pass.
            assert "another process" in asking.check(asked("http", port))
        pid = asking._process.pid
        assert processes.uid_of(pid) == SHOP.uid

        def looks(target: int) -> bool:
            words = ["setpriv", f"--reuid={SHOP.uid}", f"--regid={SHOP.gid}", "--clear-groups"]
            done = subprocess.run([*words, "ls", f"/proc/{target}/fd"], capture_output=True)
            return done.returncode == 0

        assert not looks(pid)
        with ablation("what makes it opaque") as attack:
            words = ["setpriv", f"--reuid={SHOP.uid}", f"--regid={SHOP.gid}", "--clear-groups"]
            plain = subprocess.Popen([*words, "sleep", "60"])
            time.sleep(0.3)
            attack.succeeded(looks(plain.pid))
            plain.kill()
            plain.wait()
    finally:
        asking.close()


def test_a_prober_that_dies_answers_nothing() -> None:
    with closing(Prober(None)) as asking, answering(well) as (port, _):
        assert asking.check(asked("tcp", port)) == ""
        assert not asking.is_dead
        asking._process.kill()
        assert "no answer" in asking.check(asked("tcp", port)) and asking.is_dead
