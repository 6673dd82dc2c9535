"""Who answers on a port: every socket that could, in the kernel's own order."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import listening

HEAD = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"


def line(address: bytes, port: int, inode: int, state: bytes = b"0A") -> bytes:
    row = b"   0: %s:%04X 00000000:0000 %s 00000000:00000000 00:00000000 00000000  0 0 %d 1 0\n"
    return row % (address, port, state, inode)


def test_a_closer_address_answers_before_a_wider_one() -> None:
    any4, loop = line(b"00000000", 80, 1), line(b"0100007F", 80, 2)
    any6 = line(b"0" * 32, 80, 3)
    assert listening.listeners(80, [HEAD + any4 + loop, HEAD + any6]) == {2}
    assert listening.listeners(80, [HEAD + any4, HEAD + any6]) == {1}
    assert listening.listeners(80, [HEAD, HEAD + any6]) == {3}
    assert listening.listeners(81, [HEAD + any4 + loop, HEAD + any6]) == frozenset()


def test_a_shared_port_counts_every_socket() -> None:
    both = line(b"0100007F", 80, 1) + line(b"0100007F", 80, 2)
    assert listening.listeners(80, [HEAD + both]) == {1, 2}


def test_a_connection_and_another_address_are_no_listeners() -> None:
    other = line(b"0100007F", 80, 1, b"01") + line(b"0101A8C0", 80, 2)
    assert listening.listeners(80, [HEAD + other]) == frozenset()


def test_a_port_of_this_process_is_held_by_it_and_by_no_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listening.is_held_by(port, [os.getpid()])
        assert not listening.is_held_by(port, [])
        sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        assert not listening.is_held_by(port, [sleeper.pid])
        sleeper.kill()
        sleeper.communicate()
    assert not listening.is_held_by(port, [os.getpid()])


def test_a_shared_port_of_two_processes_is_held_by_neither_alone() -> None:
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        first.listen()
        port = first.getsockname()[1]
        code = (
            "import socket; s = socket.socket(); s.setsockopt(1, 15, 1);"
            f"s.bind(('127.0.0.1', {port})); s.listen(); print(flush=True); input()"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert other.stdout is not None
        other.stdout.readline()
        assert not listening.is_held_by(port, [os.getpid()])
        assert listening.is_held_by(port, [os.getpid(), other.pid])
        other.kill()
        other.communicate()


@given(st.binary(max_size=300))
def test_a_strange_table_is_read_without_harm(text: bytes) -> None:
    try:
        listening.listeners(80, [HEAD + text])
    except ValueError:
        assert b"0A" in text  # only the kernel writes this table


def test_the_owner_of_a_port_is_the_user_whom_the_kernel_names() -> None:
    mine = line(b"0100007F", 80, 1).replace(b"00000000  0 0", b"00000000  1001 0")
    wide = line(b"00000000", 80, 2)
    assert listening.owners(80, [HEAD + mine + wide]) == {1001}
    assert listening.owners(80, [HEAD + wide]) == {0}
    assert listening.owners(81, [HEAD + mine]) == frozenset()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listening.owners(port) == {os.geteuid()}
        assert not listening.is_of_stranger(port)


def test_the_kernel_says_the_same_as_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    with ExitStack() as stack:
        ports = []
        places = [("127.0.0.1", socket.AF_INET)]
        if Path("/proc/net/tcp6").exists():
            places += [("::1", socket.AF_INET6), ("::ffff:127.0.0.1", socket.AF_INET6)]
        for address, family in places:
            held = stack.enter_context(socket.socket(family))
            held.bind((address, 0))
            held.listen()
            ports.append(held.getsockname()[1])
        for port in ports:
            read = [path.read_bytes() for path in tables]
            assert listening.listeners(port) == listening.listeners(port, read)
            assert listening.owners(port) == listening.owners(port, read)
        asked = [listening.listeners(port) for port in ports]
        # Where that socket is forbidden, the tables are read.
        monkeypatch.setattr("node.listening.diagnosed", _forbidden)
        assert [listening.listeners(port) for port in ports] == asked
        assert any(asked)


def _forbidden(_: int) -> list[object]:
    raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
