"""The socket between fetch and apply: whole messages, one pipe beside one, no stranger."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from embrasure import limits
from embrasure.errors import Denied, Failed, Refused, Unavailable
from node import ipc
from node.messages import (
    Done,
    End,
    FromApply,
    FromFetch,
    Message,
    Pipe,
    PollAsk,
    Want,
    error_of,
    failure_of,
    parse_from_apply,
    parse_from_fetch,
    write_message,
)
from tests.ablation import Ablation

Pair = tuple[ipc.Channel[FromApply], ipc.Channel[FromFetch]]


def pair() -> Pair:
    """The two ends of one conversation: fetch's, apply's."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ipc.Channel(left, parse_from_apply), ipc.Channel(right, parse_from_fetch)


@pytest.fixture
def ends() -> Iterator[Pair]:
    fetch, apply = pair()
    with fetch, apply:
        yield fetch, apply


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def rights(*numbers: int) -> list[tuple[int, int, bytes]]:
    packed = b"".join(number.to_bytes(4, "little") for number in numbers)
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)]


def test_a_message_arrives_as_it_was_sent(ends: Pair) -> None:
    fetch, apply = ends
    fetch.send(PollAsk())
    assert apply.receive(seconds=1) == PollAsk()
    want = Want(id=1, path="metadata/timestamp.json", offset=0, limit=10)
    apply.send(want)
    assert fetch.receive(seconds=1) == want


def test_a_pipe_travels_beside_its_message_and_is_not_inherited(ends: Pair) -> None:
    fetch, apply = ends
    reading, writing = os.pipe()
    fetch.send(Pipe(id=1), reading)
    message, got = apply.receive_with(seconds=1)
    assert message == Pipe(id=1)
    assert got is not None
    assert not os.get_inheritable(got)
    os.write(writing, b"bytes")
    os.close(writing)
    assert os.read(got, 10) == b"bytes"
    os.close(got)
    os.close(reading)


@pytest.mark.misuse
def test_a_descriptor_nobody_asked_for_is_closed(ends: Pair, ablation: Ablation) -> None:
    fetch, apply = ends
    reading, writing = os.pipe()
    before = descriptors()
    fetch.send(PollAsk(), reading)
    with pytest.raises(Refused, match="no descriptor"):
        apply.receive(seconds=1)
    assert descriptors() == before
    with ablation("the refusal of a descriptor") as attack:
        fetch.send(PollAsk(), reading)
        _, got = apply.receive_with(seconds=1)
        assert got is not None
        attack.succeeded(descriptors() - before)
        os.close(got)
    os.close(reading)
    os.close(writing)


@pytest.mark.misuse
def test_two_descriptors_are_refused_and_none_stays_open(ends: Pair, ablation: Ablation) -> None:
    fetch, apply = ends
    reading, writing = os.pipe()
    before = descriptors()
    fetch._socket.sendmsg([write_message(Pipe(id=1))], rights(reading, reading))
    with pytest.raises(Refused) as refused:
        apply.receive_with(seconds=1)
    assert refused.value.reason == "limit"
    fetch._socket.sendmsg([write_message(Pipe(id=1))], rights(*[reading] * 40))
    with pytest.raises(Refused):
        apply.receive_with(seconds=1)
    assert descriptors() == before
    with ablation("the count of descriptors") as attack:
        fetch._socket.sendmsg([write_message(Pipe(id=1))], rights(reading, reading))
        _, got, _, _ = socket.recv_fds(apply._socket, 4096, 4)
        attack.succeeded(len(descriptors() - before) == 2)
        for one in got:
            os.close(one)
    os.close(reading)
    os.close(writing)


@pytest.mark.misuse
def test_a_file_in_place_of_a_pipe_is_refused(
    ends: Pair, tmp_path: Path, ablation: Ablation
) -> None:
    # A file can be changed by fetch after apply has hashed what it read.
    fetch, apply = ends
    with (tmp_path / "file").open("w+b") as file:
        before = descriptors()
        fetch.send(Pipe(id=1), file.fileno())
        with pytest.raises(Refused, match="read end of a pipe"):
            apply.receive_with(seconds=1)
        assert descriptors() == before
        with ablation("the kind of the descriptor") as attack:
            attack.without("node.ipc.check_pipe")
            fetch.send(Pipe(id=1), file.fileno())
            _, got = apply.receive_with(seconds=1)
            assert got is not None
            attack.succeeded(stat.S_ISREG(os.fstat(got).st_mode))
            os.close(got)


@pytest.mark.misuse
def test_the_write_end_of_a_pipe_is_refused(ends: Pair, ablation: Ablation) -> None:
    fetch, apply = ends
    reading, writing = os.pipe()
    fetch.send(Pipe(id=1), writing)
    with pytest.raises(Refused, match="read end of a pipe"):
        apply.receive_with(seconds=1)
    with ablation("the kind of the descriptor") as attack:
        attack.without("node.ipc.check_pipe")
        fetch.send(Pipe(id=1), writing)
        _, got = apply.receive_with(seconds=1)
        assert got is not None
        attack.succeeded(os.write(got, b"x"))
        os.close(got)
    os.close(reading)
    os.close(writing)


@pytest.mark.misuse
def test_a_message_over_the_limit_is_refused_on_both_sides(ends: Pair, ablation: Ablation) -> None:
    fetch, apply = ends
    long = End(id=1, status="ok", length=1, got="x" * 512)
    fetch._socket.sendmsg([write_message(long) + b" " * limits.IPC_BYTES])
    with pytest.raises(Refused) as refused:
        apply.receive(seconds=1)
    assert refused.value.reason == "limit"
    with ablation("the length of a message") as attack:
        fetch._socket.sendmsg([write_message(long) + b" " * limits.IPC_BYTES])
        attack.succeeded(len(apply._socket.recv(2 * limits.IPC_BYTES)) > limits.IPC_BYTES)


def test_the_end_of_the_peer_is_told_as_unavailable(ends: Pair) -> None:
    fetch, apply = ends
    fetch.close()
    with pytest.raises(Unavailable) as gone:
        apply.receive(seconds=1)
    assert gone.value.reason == "ipc-closed"
    with pytest.raises(Unavailable):
        apply.send(Done())


def test_silence_ends_after_its_time(ends: Pair) -> None:
    with pytest.raises(Unavailable):
        ends[0].receive(seconds=0.01)


def talk(folder: Path) -> list[Message]:
    """One whole exchange through a listener in `folder`."""
    me = frozenset({os.geteuid()})
    heard: list[Message] = []
    with closing(ipc.Listener(folder, "apply.sock")) as listener:

        def answer() -> None:
            channel = listener.accept(me, seconds=5)
            assert channel is not None
            with channel:
                heard.append(channel.receive(seconds=5))
                channel.send(Done())

        thread = threading.Thread(target=answer)
        thread.start()
        with ipc.connect(folder, "apply.sock", me) as fetch:
            fetch.send(PollAsk())
            heard.append(fetch.receive(seconds=5))
        thread.join()
    return heard


def test_a_listener_is_found_under_a_path_longer_than_the_kernel_takes(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / ("long" * 30)
    folder.mkdir(parents=True, mode=0o700)
    assert talk(folder) == [PollAsk(), Done()]


def test_the_socket_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert talk(tmp_path) == [PollAsk(), Done()]
    assert talk(tmp_path) == [PollAsk(), Done()]


def test_no_agent_is_told_as_such(tmp_path: Path) -> None:
    me = frozenset({os.geteuid()})
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(Unavailable) as absent:
            ipc.connect(folder, "apply.sock", me)
        assert absent.value.reason == "agent-not-running"


@pytest.mark.misuse
def test_a_stranger_is_hung_up_on(tmp_path: Path, ablation: Ablation) -> None:
    tmp_path.chmod(0o700)
    stranger = frozenset({os.geteuid() + 1})
    with closing(ipc.Listener(tmp_path, "apply.sock")) as listener:
        with pytest.raises(Denied) as denied:
            ipc.connect(tmp_path, "apply.sock", stranger)
        assert denied.value.reason == "peer"
        assert listener.accept(stranger, seconds=1) is None
        with ipc.connect(tmp_path, "apply.sock", frozenset({os.geteuid()})):
            assert listener.accept(stranger, seconds=1) is None
        with ablation("the user at the other end") as attack:
            attack.without("node.ipc.check_peer")
            with ipc.connect(tmp_path, "apply.sock", stranger):
                channel = listener.accept(stranger, seconds=1)
                assert channel is not None
                attack.succeeded(channel.peer().uid not in stranger)
                channel.close()


@pytest.mark.misuse
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, ablation: Ablation) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Denied):
        ipc.Listener(tmp_path, "apply.sock")
    with pytest.raises(Denied):
        ipc.connect(tmp_path, "apply.sock", frozenset({os.geteuid()}))
    with ablation("the look at the folder") as attack:
        attack.without("node.ipc.check_folder")
        attack.succeeded(talk(tmp_path))


def test_an_error_crosses_the_socket_with_its_class_and_its_words() -> None:
    error = Failed(
        "disk\x1b[2J", expected="room", got="кр\u202e", hint="free space", reason="no-space"
    )
    raw = write_message(failure_of(error))
    message = parse_from_apply(raw)
    assert raw.isascii()
    found = error_of(message)  # type: ignore[arg-type]  # the parser says more than one type
    assert (type(found), found.reason, found.exit_code) == (Failed, "no-space", 1)


def test_a_message_of_the_other_side_is_refused() -> None:
    with pytest.raises(Refused):
        parse_from_fetch(write_message(Done()))
    with pytest.raises(Refused):
        parse_from_apply(write_message(PollAsk()))
