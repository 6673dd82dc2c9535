"""Asks an app over loopback whether it is well, and proves that the new release gave the answer.

In development apply calls `check` itself. In production this is a process of its own, as the app's
user: apply has no network there, and only the same user sees whose socket it is. It takes questions
as lines and answers each with one line. No redirect, no name look-up, every byte and every second
bounded. Nothing but the standard library, and gRPC where a probe asks for it. It starts for each
install that is probed, so it imports little: with `socket`, `json` and `re`, which load `enum`, and
`ctypes`, the start of a prober costs 22 ms and not 10, as much as to install 100 files.
"""

from __future__ import annotations

import _ctypes  # what `ctypes` is made of, and so on: the same functions, without the rest
import _socket
import _stat as stat
import posix as os
import sys
import time

from node import listening

HOST = "127.0.0.1"
LINE_BYTES = 256 * 1024  # one question: 32,768 members
_HEAD_BYTES = 64 * 1024
_VERSIONS = (b"HTTP/1.0 ", b"HTTP/1.1 ")
_RELEASE, _HEX, _NAME_LENGTH = b"embrasure-release", b"0123456789abcdef", 16
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}, as protobuf writes it
_METHOD = "/grpc.health.v1.Health/Check"
_GRPC_BYTES = 4096
_GRPC = (
    ("grpc.max_receive_message_length", _GRPC_BYTES), ("grpc.enable_http_proxy", 0),
    ("grpc.max_metadata_size", _GRPC_BYTES), ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0), ("grpc.service_config_disable_resolution", 1),
    ("grpc.compression_enabled_algorithms_bitset", 1),  # `identity` alone: nothing is inflated
)  # fmt: skip
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 4, 38, 9

TYPE_CHECKING = False  # as in `typing`, without its import
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Question = Mapping[str, Any]


def write_question(asked: Question) -> bytes:
    """Return the question as one line: NAME=VALUE between tabs, process ids between commas.

    Raises ValueError for a text that could be taken for more than one.
    """
    words = [
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in asked.items()
    ]
    line = "\t".join(words)
    if "\n" in line or line.count("\t") != len(words) - 1:
        raise ValueError("a text with a tab or a new line")
    return line.encode() + b"\n"


def read_question(line: bytes) -> dict[str, Any]:
    """Return the question of a line; whoever asks is believed."""
    asked: dict[str, Any] = dict(
        word.split("=", 1) for word in line.decode().removesuffix("\n").split("\t")
    )
    return asked | {"members": [int(pid) for pid in asked.get("members", "").split(",") if pid]}


def check(asked: Question) -> str:
    """Return what is wrong, empty when the probe passes.

    asked: `kind` and what that kind needs; `seconds`, `release`, `members`
    """
    try:
        if asked["kind"] == "file-age":
            return _check_file(asked)
        return _check_port(asked)
    except OSError as problem:
        where = f"port {asked['name']}" if "name" in asked else "file"
        return f"{where}: {problem.strerror or 'no answer in time'}"


def _check_port(asked: Question) -> str:
    port, name, seconds = int(asked["port"]), str(asked["name"]), float(asked["seconds"])
    has_name, before = False, _proof(port, asked)
    if asked["kind"] == "http":
        wrong, has_name = _ask_http(asked, time.monotonic() + seconds)
    elif asked["kind"] == "grpc":
        wrong = _ask_grpc(asked)
    else:
        _connected(port, seconds).close()
        wrong = ""
    if wrong:
        return wrong
    # Before as well as after: whoever answers can leave the port to somebody else before he does.
    held, named = (first and last for first, last in zip(before, _proof(port, asked), strict=True))
    if held or (has_name and named):
        return ""
    return f"port {name}: answered by another process than the new release"


def _proof(port: int, asked: Question) -> tuple[bool, bool]:
    """Return whether the port is the new release's, and whether its name would be proof now.

    Any process may hold the port: the old release, or a stranger. Anybody can say the name, it is
    no secret; a local user who was first at the port, too.
    """
    held = listening.is_held_by(port, asked["members"])
    return held, held or not listening.is_of_stranger(port)


def _ask_http(asked: Question, until: float) -> tuple[str, bool]:
    """Return what is wrong, and whether the answer names the new release."""
    port, name = int(asked["port"]), asked["name"]
    request = (
        f"GET {asked['path']} HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
        "User-Agent: embrasure-probe\r\nConnection: close\r\n\r\n"
    )
    connection = _connected(port, _left(until))
    try:
        connection.sendall(request.encode("ascii"))
        head = b""
        while b"\r\n\r\n" not in head:
            # A server that sends one byte a second must not stretch the time-out.
            connection.settimeout(_left(until))
            piece = connection.recv(_HEAD_BYTES)
            head += piece
            if not piece or len(head) > _HEAD_BYTES:
                return f"port {name}: no HTTP answer", False
    finally:
        connection.close()
    status = status_of(head)
    if status is None:
        return f"port {name}: no HTTP answer", False
    if status != int(asked["status"]):
        return f"port {name}: status {status}, expected {asked['status']}", False
    return "", release_of(head) == asked["release"]


def status_of(head: bytes) -> int | None:
    """Return the status that an answer begins with, None when it is no HTTP/1 (RFC 9112, 4)."""
    line, end, _ = head.partition(b"\r\n")
    version, digits, phrase = line[:9], line[9:12], line[12:]
    if not end or b"\r" in line or b"\n" in line or version not in _VERSIONS:
        return None
    if len(digits) < 3 or not digits.isdigit() or phrase[:1] not in (b"", b" "):
        return None
    return int(digits)


def release_of(head: bytes) -> str:
    """Return the release that the first such field of an answer names, "" when none does."""
    for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        field, _, value = line.lower().partition(b":")
        named = value.strip(b" \t")
        if field == _RELEASE and len(named) == _NAME_LENGTH and not named.strip(_HEX):
            return named.decode("ascii")
    return ""


def _connected(port: int, seconds: float) -> _socket.socket:
    """Return a connection to the port; a plain address, so nothing is looked up or loaded."""
    connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect((HOST, port))
    except BaseException:
        connection.close()
        raise
    return connection


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


def _ask_grpc(asked: Question) -> str:
    """Return what is wrong with the answer to grpc.health.v1, of one service or of the server."""
    import grpc  # never in apply

    service = str(asked["service"]).encode("ascii")
    question = b"" if not service else b"\x0a" + bytes([len(service)]) + service
    # Plain bytes, and gRPC itself refuses a peer that is not on this host.
    local = grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    with grpc.secure_channel(f"ipv4:{HOST}:{asked['port']}", local, _GRPC) as channel:
        try:
            call = channel.unary_unary(
                _METHOD, request_serializer=bytes, response_deserializer=bytes
            )
            said = call(question, timeout=float(asked["seconds"]))
        except grpc.RpcError as problem:
            return f"port {asked['name']}: gRPC {problem.code().name}"
    return "" if said == _SERVING else f"port {asked['name']}: not serving"


def _check_file(asked: Question) -> str:
    """Return what is wrong with the age of a file; one from before the start proves nothing."""
    found = os.lstat(str(asked["path"]))
    if not stat.S_ISREG(found.st_mode):
        return "file: no regular file"
    age = time.time() - found.st_mtime
    if found.st_mtime < float(asked["since"]):
        return "file: not written since the start of the new release"
    if not -1.0 <= age <= float(asked["seconds_old"]):
        return f"file: {age:.0f} s old, expected at most {asked['seconds_old']} s"
    return ""


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # not subscriptable at run time
    _type_ = "i"


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]  # as above
    _type_ = "L"


class _Prctl(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int
    _argtypes_ = (_Int, _Long, _Long, _Long, _Long)


def become(user: str) -> None:
    """This process is the user for ever, and no other process of that user looks into it."""
    if user != "-":
        uid, gid = (int(number) for number in user.split(":"))
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    prctl = _Prctl(_ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl"))  # type: ignore[arg-type]  # this program
    for what, value in (
        (_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0), (_PR_SET_PDEATHSIG, _SIGKILL),
    ):  # fmt: skip
        if prctl(what, value, 0, 0, 0):
            raise OSError(_ctypes.get_errno(), f"prctl {what}")


def main() -> int:
    """Answer until the end of the input. Arguments: PARENT USER [grpc]."""
    if "grpc" in sys.argv[3:]:
        import grpc  # noqa: F401  # before the user changes, who may not read our files
    become(sys.argv[2])
    if os.getppid() != int(sys.argv[1]):
        return 1
    while line := sys.stdin.buffer.readline(LINE_BYTES):
        sys.stdout.buffer.write(check(read_question(line)).encode() + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
