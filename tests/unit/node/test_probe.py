"""Probes: only the new release's own answer counts, and no answer can take longer than it may."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from embrasure.bundle.manifest import ExecProbe, HttpProbe, Probe, TcpProbe
from embrasure.errors import Failed, Unavailable
from node import listening, probe
from node.probe import Died, Target, Watch
from tests.ablation import Ablation

HTTP = HttpProbe(
    port="web", path="/", status=200, interval_ms=10, timeout_ms=500, start_s=1, passes=3
)
TCP = TcpProbe(port="web", interval_ms=10, timeout_ms=500, start_s=1, passes=1)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
RELEASE = "ab" * 8


Serve = Callable[[Callable[[int], bytes | None]], "Server"]


class Server:
    """Answers each connection with what `reply` returns, in this process."""

    def __init__(self, reply: Callable[[int], bytes | None]) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.count = 0
        self._reply = reply
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            self.count += 1
            with peer:
                answer = self._reply(self.count)
                if answer is None:
                    threading.Event().wait(2)
                else:
                    peer.recv(4096)
                    peer.sendall(answer)


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[Server] = []

    def start(reply: Callable[[int], bytes | None]) -> Server:
        made.append(Server(reply))
        return made[-1]

    yield start
    for server in made:
        server.socket.shutdown(socket.SHUT_RDWR)
        server.socket.close()


def target(port: int) -> Target:
    return Target(
        ports={"web": port},
        release=RELEASE,
        env={},
        cwd=Path("/"),
        members=lambda: frozenset({os.getpid()}),
        is_alive=lambda: True,
        argv=list,
    )


def watch(port: int, *probes: Probe, **changes: object) -> Watch:
    aimed = replace(target(port), **changes)  # type: ignore[arg-type]  # fields by name
    return Watch(probes or (HTTP,), aimed, halt=threading.Event())


def test_a_well_app_passes(serve: Serve) -> None:
    server = serve(lambda count: OK)
    watch(server.port).until_well()
    assert server.count == 3


def test_passes_count_in_a_row_only(serve: Serve) -> None:
    server = serve(lambda count: OK if count not in (1, 3) else b"HTTP/1.1 503 No\r\n\r\n")
    watch(server.port).until_well()
    assert server.count == 6


def test_an_app_that_never_gets_well_fails_after_its_start_time(serve: Serve) -> None:
    server = serve(lambda count: b"HTTP/1.1 500 No\r\n\r\n")
    began = time.monotonic()
    with pytest.raises(Failed) as caught:
        watch(server.port).until_well()
    assert caught.value.reason == "probe"
    assert "status 500" in caught.value.got
    assert 1 <= time.monotonic() - began < 2


@pytest.mark.misuse
def test_a_stranger_on_the_port_does_not_pass_for_the_new_release(
    serve: Serve,
    ablation: Ablation,
) -> None:
    server = serve(lambda count: OK)
    aimed = replace(target(server.port), members=frozenset)
    for one in (HTTP, TCP):
        assert "another process" in probe.ask(one, aimed)
    with ablation("who holds the port") as attack:
        # Without the proof the old release, still on the port, would pass the new one's test.
        attack.without("node.listening.is_held_by", lambda port, pids: True)
        assert probe.ask(HTTP, aimed) == ""
        attack.succeeded(probe.ask(TCP, aimed) == "")


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        (f"Embrasure-Release: {RELEASE}", True),
        (f"embrasure-release:{RELEASE}", True),
        ("Embrasure-Release: " + "0" * 16, False),
        (f"X-Embrasure-Release: {RELEASE}", False),
        (f"X: Embrasure-Release: {RELEASE}", False),
    ],
)
def test_an_answer_that_names_the_release_is_proof(serve: Serve, line: str, passes: bool) -> None:
    server = serve(lambda count: f"HTTP/1.1 200 OK\r\n{line}\r\n\r\n".encode())
    assert (probe.ask(HTTP, replace(target(server.port), members=frozenset)) == "") is passes


def test_a_name_in_the_body_is_no_proof(serve: Serve) -> None:
    server = serve(lambda count: OK + f"\r\nEmbrasure-Release: {RELEASE}\r\n\r\n".encode())
    assert probe.ask(HTTP, replace(target(server.port), members=frozenset)) != ""


@pytest.mark.misuse
def test_a_silent_or_dripping_server_takes_no_longer_than_the_time_out(
    serve: Serve,
    ablation: Ablation,
) -> None:
    silent = serve(lambda count: None)
    began = time.monotonic()
    assert "time" in probe.ask(HTTP, target(silent.port))
    assert time.monotonic() - began < 1

    def drip(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            for _ in range(40):
                try:
                    peer.sendall(b"H")
                except OSError:
                    return
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        began = time.monotonic()
        assert "time" in probe.ask(HTTP, target(listener.getsockname()[1]))
        assert time.monotonic() - began < 1
        with ablation("the time for a whole answer") as attack:
            # With a time-out for each piece only, one byte now and then holds it for ever.
            attack.without("node.prober._left", lambda until: 0.5)
            threading.Thread(target=drip, args=(listener,), daemon=True).start()
            began = time.monotonic()
            probe.ask(HTTP, target(listener.getsockname()[1]))
            attack.succeeded(time.monotonic() - began > 1)


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"x" * 70000],
)
def test_another_protocol_does_not_pass(serve: Serve, answer: bytes) -> None:
    server = serve(lambda count: answer)
    assert probe.ask(HTTP, target(server.port)) != ""


def test_a_closed_port_does_not_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "refused" in probe.ask(HTTP, target(port)).lower()


def test_a_command_decides_by_its_exit() -> None:
    def one(*argv: str, timeout_ms: int = 2000) -> str:
        made = ExecProbe(argv=argv, interval_ms=10, timeout_ms=timeout_ms, start_s=1, passes=1)
        return probe.ask(made, target(1))

    assert one("/bin/true") == ""
    assert "ended with 1" in one("/bin/false")
    assert "no end" in one("/bin/sleep", "60", timeout_ms=200)


def test_one_failure_in_the_soak_is_enough(serve: Serve) -> None:
    server = serve(lambda count: OK if count != 4 else b"HTTP/1.1 500 No\r\n\r\n")
    with pytest.raises(Failed) as caught:
        watch(server.port).through(0.5)
    assert caught.value.reason == "probe"
    assert server.count == 4


def test_a_soak_lasts_its_whole_time(serve: Serve) -> None:
    server = serve(lambda count: OK)
    began = time.monotonic()
    watch(server.port).through(0.3)
    assert time.monotonic() - began >= 0.3
    assert server.count > 2


def test_a_dead_app_is_seen_at_once(serve: Serve) -> None:
    server = serve(lambda count: OK)
    until = time.monotonic() + 0.3
    began = time.monotonic()
    with pytest.raises(Died):
        watch(server.port, is_alive=lambda: time.monotonic() < until).through(10)
    assert time.monotonic() - began < 1


def test_a_stopping_node_ends_its_watch_without_blame(serve: Serve) -> None:
    server = serve(lambda count: OK)
    halt = threading.Event()
    threading.Timer(0.1, halt.set).start()
    with pytest.raises(Unavailable) as caught:
        Watch((HTTP,), target(server.port), halt=halt).through(10)
    assert caught.value.reason == "stopping"


@pytest.mark.misuse
def test_another_user_who_was_first_at_the_port_proves_nothing_with_the_name(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    line = f"Embrasure-Release: {RELEASE}"
    server = serve(lambda count: f"HTTP/1.1 200 OK\r\n{line}\r\n\r\n".encode())
    aimed = replace(target(server.port), members=frozenset)
    assert probe.ask(HTTP, aimed) == ""
    monkeypatch.setattr("node.listening.owners", lambda port: frozenset({os.geteuid() + 1}))
    assert "another process" in probe.ask(HTTP, aimed)
    with ablation("the user who holds the port") as attack:
        attack.without("node.listening.is_of_stranger", lambda port: False)
        attack.succeeded(probe.ask(HTTP, aimed) == "")


@pytest.mark.misuse
def test_whoever_leaves_the_port_before_he_answers_proves_nothing_with_the_name(
    ablation: Ablation,
) -> None:
    def asked() -> str:
        def leave() -> None:
            peer, _ = listener.accept()
            with peer:
                listener.close()  # now nobody can say whose it was
                peer.recv(4096)
                peer.sendall(f"HTTP/1.1 200 OK\r\nEmbrasure-Release: {RELEASE}\r\n\r\n".encode())

        listener = socket.create_server(("127.0.0.1", 0))
        aimed = replace(target(listener.getsockname()[1]), members=frozenset)
        thread = threading.Thread(target=leave)
        thread.start()
        said = probe.ask(HTTP, aimed)
        thread.join()
        return said

    assert "another process" in asked()
    with ablation("that somebody holds the port") as attack:
        attack.without(
            "node.listening.is_of_stranger",
            lambda port: not listening.owners(port) <= {0, os.geteuid()},
        )
        attack.succeeded(asked() == "")


def test_a_stranger_who_gives_the_port_up_before_he_answers_was_seen_on_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"Embrasure-Release: {RELEASE}"
    server = serve(lambda count: f"HTTP/1.1 200 OK\r\n{line}\r\n\r\n".encode())
    held = [frozenset({os.geteuid() + 1}), frozenset({os.geteuid()})]  # before, after
    monkeypatch.setattr("node.listening.owners", lambda port: held.pop(0))
    aimed = replace(target(server.port), members=frozenset)
    assert "another process" in probe.ask(HTTP, aimed) and not held
