"""A pull node against mirrors that lie: every wait ends, every answer is bounded, one identity."""

from __future__ import annotations

import contextlib
import itertools
import re
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from urllib3.connection import HTTPSConnection

from embrasure import limits
from embrasure.errors import Misuse, NotFound, Refused, Unavailable
from embrasure.net import dial
from embrasure.net.denials import TlsDenials, key_digest
from embrasure.net.dial import tls_context as dial_context
from embrasure.net.https import LetterboxClient, MirrorSource
from embrasure.net.identity import IssuerName
from embrasure.net.pace import Deadline, MinimumSpeed, Seconds
from embrasure.net.trustbundle import Trust
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.badserver import Answer, bad_server, says
from tests.simulate.listener import trust_from

BLOB = "blobs/aa/aa" + "0" * 62
FILE = "metadata/2.targets.json"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@contextlib.contextmanager
def mirror_that(
    answer: Answer,
    authority: Authority,
    folder: Path,
    *,
    name: str = "m1",
    steady: Seconds = time.monotonic,
    maximum: ssl.TLSVersion | None = None,
    **forged: Any,
) -> Iterator[MirrorSource]:
    leaf = authority.leaf("mirror", "m1", **forged)
    with bad_server(leaf, folder, answer, maximum=maximum) as port:
        source = MirrorSource(
            f"127.0.0.1:{port}", name=name, trust=trust_from(authority), steady=steady
        )
        try:
            yield source
        finally:
            source.close()


def fetch(source: MirrorSource, path: str = BLOB, *, offset: int = 0, limit: int = 100) -> bytes:
    return b"".join(source.fetch(path, offset=offset, limit=limit))


def test_a_file_comes_whole(authority: Authority, tmp_path: Path) -> None:
    with mirror_that(says("200 OK\nContent-Length: 5", b"hello"), authority, tmp_path) as source:
        assert fetch(source) == b"hello"
        assert fetch(source, limit=5) == b"hello"


def test_a_broken_transfer_goes_on_at_its_byte(authority: Authority, tmp_path: Path) -> None:
    asked: list[bytes] = []

    def answer(connection: ssl.SSLSocket, head: bytes) -> None:
        asked.append(head)
        text = "206 Partial\nContent-Range: bytes 3-4/5\nContent-Length: 2"
        says(text, b"lo")(connection, head)

    with mirror_that(answer, authority, tmp_path) as source:
        assert fetch(source, offset=3) == b"lo"
    assert b"Range: bytes=3-\r\n" in asked[0]


def test_a_server_without_ranges_still_serves_a_resume(
    authority: Authority, tmp_path: Path
) -> None:
    with mirror_that(says("200 OK\nContent-Length: 5", b"hello"), authority, tmp_path) as source:
        assert fetch(source, offset=3, limit=2) == b"lo"


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "redirect": ("302 Found\nLocation: https://other/\nContent-Length: 1", b"x", "redirect"),
    "packed": ("200 OK\nContent-Encoding: gzip\nContent-Length: 5", b"hello", "encoding"),
    "in pieces": ("200 OK\nTransfer-Encoding: chunked", b"1\r\nx\r\n0\r\n\r\n", "encoding"),
    "too long": ("200 OK\nContent-Length: 101", b"x" * 101, "limit"),
    "huge length": ("200 OK\nContent-Length: 999999999999999", b"x" * 101, "limit"),
    "no length": ("200 OK\nConnection: close", b"hello", "bad-schema"),
    "odd length": ("200 OK\nContent-Length: 0x5", b"hello", "bad-schema"),
    "no such offset": ("416 No\nContent-Length: 1", b"x", "bad-offset"),
}


# Which check of an answer sees which lie.
PLAIN, FOUND, EXTENT = (
    "embrasure.net.dial.check_plain",
    "embrasure.net.https.check_found",
    "embrasure.net.https.check_extent",
)
LETS_PASS = {"redirect": (PLAIN, FOUND), "packed": (PLAIN,), "in pieces": (PLAIN, EXTENT),
             "no such offset": (FOUND,)}  # fmt: skip


def taken(source: MirrorSource, *, offset: int = 0) -> bytes:
    """Return what came through, also when the end was missing."""
    found = b""
    with contextlib.suppress(Unavailable):
        for piece in source.fetch(BLOB, offset=offset, limit=100):
            found += piece
    return found


@pytest.mark.misuse
@pytest.mark.parametrize("lie", REFUSED)
def test_a_lying_answer_is_refused(
    authority: Authority, tmp_path: Path, lie: str, ablation: Ablation
) -> None:
    head, body, reason = REFUSED[lie]
    with (
        mirror_that(says(head, body), authority, tmp_path) as source,
        pytest.raises(Refused) as caught,
    ):
        fetch(source)
    assert caught.value.reason == reason
    guards = LETS_PASS.get(lie, (EXTENT,))
    with (
        ablation(" and ".join(guards)) as attack,
        mirror_that(says(head, body), authority, tmp_path) as source,
    ):
        for guard in guards:
            attack.without(guard, lambda *_, **__: 0)
        attack.succeeded(taken(source) == (b"x" if lie == "in pieces" else body))


@pytest.mark.misuse
@pytest.mark.parametrize(
    "stated", ["bytes 0-4/5", "bytes 3-3/5", "bytes 4-4/5", "bytes 3-4/*", "3-4/5", ""]
)
def test_another_range_than_the_asked_one_is_refused(
    authority: Authority, tmp_path: Path, stated: str, ablation: Ablation
) -> None:
    head = f"206 Partial\nContent-Range: {stated}\nContent-Length: 2"
    with (
        mirror_that(says(head, b"lo"), authority, tmp_path) as source,
        pytest.raises(Refused) as caught,
    ):
        fetch(source, offset=3)
    assert caught.value.reason == "bad-offset"
    with (
        ablation("the check of the range") as attack,
        mirror_that(says(head, b"lo"), authority, tmp_path) as source,
    ):
        attack.without(EXTENT, lambda *_, **__: 0)
        attack.succeeded(fetch(source, offset=3) == b"lo")  # from wherever the mirror liked


@pytest.mark.parametrize("status", ["403 No", "404 No", "410 No"])
def test_no_such_file_is_not_found(authority: Authority, tmp_path: Path, status: str) -> None:
    with (
        mirror_that(says(f"{status}\nContent-Length: 0"), authority, tmp_path) as source,
        pytest.raises(NotFound),
    ):
        fetch(source)


@pytest.mark.misuse
def test_a_body_that_ends_early_is_never_taken_for_the_file(
    authority: Authority, tmp_path: Path, ablation: Ablation
) -> None:
    with mirror_that(says("200 OK\nContent-Length: 9", b"hello"), authority, tmp_path) as source:
        with pytest.raises(Unavailable):
            fetch(source)
        with (
            ablation("the count of the stated length") as attack,
            source._client.ask("GET", BLOB) as answer,
        ):
            answer.enforce_content_length = False
            pieces = iter(lambda: answer.read1(100, decode_content=False), b"")
            attack.succeeded(b"".join(pieces) == b"hello")


def test_a_failing_server_is_worth_another_try(authority: Authority, tmp_path: Path) -> None:
    with (
        mirror_that(says("500 No\nContent-Length: 0"), authority, tmp_path) as source,
        pytest.raises(Unavailable),
    ):
        fetch(source)
    with pytest.raises(Unavailable):
        fetch(MirrorSource("127.0.0.1:9", name="m1", trust=trust_from(authority)))


def test_a_path_outside_the_repository_is_never_asked_for(authority: Authority) -> None:
    source = MirrorSource("127.0.0.1:9", name="m1", trust=trust_from(authority))
    for path in ("../etc/passwd", "/metadata/1.root.json", "http://x/", "v1/watch/1"):
        with pytest.raises(Refused, match="a repository path"):
            fetch(source, path)


@pytest.mark.parametrize("address", ["", "host", "host:0", "host:70000", "user@host:1", "h/x:1"])
def test_an_address_is_a_host_and_a_port(authority: Authority, address: str) -> None:
    with pytest.raises(Misuse):
        MirrorSource(address, name="m1", trust=trust_from(authority))


def any_server(server: dial.Server) -> ssl.SSLContext:
    """Return a context that speaks with whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.misuse
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize(
    "case", ["another name", "another role", "a stranger", "expired", "not yet valid"]
)
def test_only_the_demanded_mirror_is_spoken_with(
    authority: Authority, tmp_path: Path, case: str, ablation: Ablation
) -> None:
    answer = says("200 OK\nContent-Length: 5", b"hello")
    cases: dict[str, dict[str, Any]] = {
        "another name": {"name": "m2"},
        "another role": {"issuer": authority.issuers["node"]},
        "a stranger": {"issuer": Authority().issuers["mirror"]},
        "expired": {"starts": timedelta(days=-8)},
        "not yet valid": {"starts": timedelta(hours=1)},
    }
    with mirror_that(answer, authority, tmp_path, **cases[case]) as source:
        with pytest.raises(Refused) as caught:
            fetch(source)
        assert caught.value.reason == "certificate"
    with ablation("the demand for one identity, by TLS and by the profile") as attack:
        attack.without("embrasure.net.dial.tls_context", any_server)
        with mirror_that(answer, authority, tmp_path, **cases[case]) as source:
            with pytest.raises(Refused):
                fetch(source)  # the profile still stands
            attack.without("embrasure.net.dial.Server.check")
            attack.succeeded(fetch(source) == b"hello")


PROFILE: list[dict[str, Any]] = [{"usages": []}, {"life": timedelta(days=30)}, {"uris": []}]


@pytest.mark.misuse
@pytest.mark.parametrize("forged", PROFILE)
def test_a_server_outside_its_profile_is_refused_before_it_is_asked(
    authority: Authority, tmp_path: Path, forged: dict[str, Any], ablation: Ablation
) -> None:
    asked: list[bytes] = []

    def answer(connection: ssl.SSLSocket, head: bytes) -> None:
        asked.append(head)
        says("200 OK\nContent-Length: 5", b"hello")(connection, head)

    with mirror_that(answer, authority, tmp_path, **forged) as source:
        with pytest.raises(Refused):
            fetch(source)
        assert asked in ([], [b""])
        with ablation("the profile, of which OpenSSL knows nothing") as attack:
            attack.without("embrasure.net.dial.Server.check")
            attack.succeeded(fetch(source) == b"hello")


def tls_1_2_too(server: dial.Server) -> ssl.SSLContext:
    """Return our context with the older protocol let in again."""
    context = dial_context(server)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.misuse
def test_a_server_of_tls_1_2_is_refused(
    authority: Authority, tmp_path: Path, ablation: Ablation
) -> None:
    answer = says("200 OK\nContent-Length: 5", b"hello")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with (
            mirror_that(answer, authority, tmp_path, maximum=ssl.TLSVersion.TLSv1_2) as source,
            pytest.raises(Unavailable),
        ):
            fetch(source)
        with ablation("TLS 1.3 at least") as attack:
            attack.without("embrasure.net.dial.tls_context", tls_1_2_too)
            with mirror_that(answer, authority, tmp_path, maximum=ssl.TLSVersion.TLSv1_2) as source:
                attack.succeeded(fetch(source) == b"hello")


class Steps:
    """A steady clock that makes a step whenever it is read."""

    def __init__(self, step: float) -> None:
        self._counts = itertools.count()
        self._step = step

    def __call__(self) -> float:
        return next(self._counts) * self._step


def drip(count: int) -> Answer:
    def answer(connection: ssl.SSLSocket, head: bytes) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n".encode())
        for _ in range(count):
            connection.sendall(b"x")

    return answer


@pytest.mark.misuse
@pytest.mark.parametrize("path", [BLOB, FILE])
def test_a_dripping_mirror_is_dropped(
    authority: Authority, tmp_path: Path, path: str, ablation: Ablation
) -> None:
    # Every byte comes in time for a time-out of gaps; 11 s pass between two of them.
    with (
        mirror_that(drip(60), authority, tmp_path, steady=Steps(11.0)) as source,
        pytest.raises(Unavailable) as caught,
    ):
        fetch(source, path)
    assert caught.value.reason == "slow"
    pace = "MinimumSpeed" if path == BLOB else "Deadline"
    with (
        ablation("the least speed of a file") as attack,
        mirror_that(drip(60), authority, tmp_path, steady=Steps(11.0)) as source,
    ):
        attack.without(f"embrasure.net.pace.{pace}.add")
        attack.succeeded(len(fetch(source, path)) == 60)  # after eleven minutes


def goes_on(count: int) -> Answer:
    """Return an answer that lasts `count` times 0.03 s, and closes when it is done."""

    def answer(connection: ssl.SSLSocket, head: bytes) -> None:
        # Closed on our side from the head on: the body is still read.
        text = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {count}\r\n\r\n"
        connection.sendall(text.encode())
        for _ in range(count):
            connection.sendall(b"x")
            time.sleep(0.03)

    return answer


@pytest.mark.misuse
@pytest.mark.parametrize("how", ["denied", "no longer in the bundle"])
def test_a_download_ends_when_the_mirror_is_believed_no_more(
    authority: Authority, tmp_path: Path, how: str, ablation: Ablation
) -> None:
    believed = trust_from(authority)
    issuer = key_digest(authority.issuers["mirror"].certificate)
    without: dict[IssuerName, tuple[x509.Certificate, ...]] = dict(believed.issuers)
    del without["mirror"]
    after = {
        "denied": replace(believed, denied=TlsDenials(issuers=frozenset({issuer}))),
        "no longer in the bundle": replace(believed, issuers=without),
    }[how]

    def read(newest: Callable[[], Trust] | None, *, files: int = 1) -> bytes:
        got = b""
        with bad_server(authority.leaf("mirror", "m1"), tmp_path, goes_on(20)) as port:
            source = MirrorSource(
                f"127.0.0.1:{port}", name="m1", trust=believed, newest=newest, recheck_s=0.05
            )
            with contextlib.closing(source):
                for _ in range(files):
                    for piece in source.fetch(BLOB, offset=0, limit=100):
                        got += piece
                        known.extend([after] * (len(got) == 3))
        return got

    known = [believed]
    with pytest.raises(Refused) as told:
        read(lambda: known[-1])
    assert told.value.reason == "certificate"
    # Whom it cannot read to believe now, it believes as before, on every connection.
    assert len(read(unreadable, files=2)) == 40
    with ablation("the look at open connections") as attack:
        known = [believed]
        attack.succeeded(len(read(None)) == 20 and known[-1] == after)


def unreadable() -> Trust:
    raise Refused("tls.json", expected="a bundle", got="else", reason="bad-schema")


@pytest.mark.misuse
def test_a_wait_ends_too_and_nothing_more_is_asked(
    authority: Authority, tmp_path: Path, ablation: Ablation
) -> None:
    believed = trust_from(authority)
    issuer = key_digest(authority.issuers["mirror"].certificate)
    denied = replace(believed, denied=TlsDenials(issuers=frozenset({issuer})))

    asked: list[bytes] = []

    def late(connection: ssl.SSLSocket, head: bytes) -> None:
        asked.append(head)
        time.sleep(0.5)
        says("200 OK\nContent-Length: 1", b"9")(connection, head)

    with bad_server(authority.leaf("mirror", "m1"), tmp_path, late) as port:
        where = f"127.0.0.1:{port}"
        held = [
            MirrorSource(where, name="m1", trust=believed, newest=newest, recheck_s=0.05)
            for newest in (lambda: denied, None)
        ]
        with contextlib.closing(held[0]) as source:
            for _ in range(2):
                with pytest.raises(Refused):
                    source.watch(1, seconds=20)
        assert len(asked) == 1
        with contextlib.closing(held[1]) as source, ablation("the same look") as attack:
            attack.succeeded(source.watch(1, seconds=20) == 9)


@pytest.mark.misuse
def test_a_head_that_never_ends_is_cut(
    authority: Authority, tmp_path: Path, ablation: Ablation
) -> None:
    stop = threading.Event()

    def answer(connection: ssl.SSLSocket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        with contextlib.suppress(OSError):
            for number in range(40):
                if stop.wait(0.05):
                    return
                connection.sendall(f"X-{number}: y\r\n".encode())
            connection.sendall(b"Content-Length: 0\r\n\r\n")

    with mirror_that(answer, authority, tmp_path) as source:
        client = source._client
        started = time.monotonic()
        with pytest.raises(Unavailable), client.ask("GET", BLOB, seconds=0.3):
            pass
        assert time.monotonic() - started < 1.5
    stop.set()
    stop.clear()
    with (
        ablation("the time for a whole head") as attack,
        mirror_that(answer, authority, tmp_path) as source,
    ):
        client, started = source._client, time.monotonic()
        client._pool.ConnectionCls = HTTPSConnection  # the class that ours is built on
        with client.ask("GET", BLOB, seconds=0.3):
            attack.succeeded(time.monotonic() - started > 1.5)


def test_a_speed_above_the_floor_passes_for_ever() -> None:
    moment = 0.0

    def steady() -> float:
        return moment

    pace = MinimumSpeed(steady)
    for _ in range(600):
        moment += 1.0
        pace.add(limits.BLOB_BYTES_PER_SECOND)
    with pytest.raises(Unavailable):
        for _ in range(60):
            moment += 1.0
            pace.add(limits.BLOB_BYTES_PER_SECOND // 2)


def test_a_deadline_is_in_all() -> None:
    moment = 0.0
    deadline = Deadline(lambda: moment, seconds=30)
    deadline.add(1)
    moment = 31.0
    with pytest.raises(Unavailable, match="30 s"):
        deadline.add(1)


@pytest.mark.parametrize(("body", "version"), [(b"7", 7), (b"123456789", 123456789)])
def test_a_watch_tells_a_version(
    authority: Authority, tmp_path: Path, body: bytes, version: int
) -> None:
    head = f"200 OK\nContent-Length: {len(body)}"
    with mirror_that(says(head, body), authority, tmp_path) as source:
        assert source.watch(1) == version


def test_a_watch_may_say_nothing(authority: Authority, tmp_path: Path) -> None:
    with mirror_that(says("204 No"), authority, tmp_path) as source:
        assert source.watch(1) is None


@pytest.mark.misuse
@pytest.mark.parametrize("body", [b"-1", b"0", b"9" * 17, b"1\n", b"1" * 4000])
def test_a_watch_that_lies_is_refused(
    authority: Authority, tmp_path: Path, body: bytes, ablation: Ablation
) -> None:
    head = f"200 OK\nContent-Length: {len(body)}"
    with mirror_that(says(head, body), authority, tmp_path) as source:
        with pytest.raises(Refused):
            source.watch(1)
        with ablation("the form and the length of a version") as attack:
            attack.without("embrasure.net.https._VERSION", re.compile(rb"(?s).*"))
            attack.without(
                "embrasure.net.dial.HttpsClient.read_small", lambda _, answer, limit: answer.read()
            )
            attack.succeeded(source.watch(1) == int(body))


@pytest.mark.parametrize("body", [b"", b"x", b"1" * 100_000])
def test_a_watch_tells_a_number(authority: Authority, tmp_path: Path, body: bytes) -> None:
    head = f"200 OK\nContent-Length: {len(body)}"
    with mirror_that(says(head, body), authority, tmp_path) as source, pytest.raises(Refused):
        source.watch(1)


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        ("403 No", Refused, "post"),
        ("409 No", Refused, "filled"),
        ("413 No", Refused, "post"),
        ("429 No", Unavailable, "busy"),
        ("503 No", Unavailable, "busy"),
    ],
)
def test_a_letterbox_that_does_not_take_a_post_says_whether_to_try_again(
    authority: Authority, tmp_path: Path, status: str, kind: type[Exception], reason: str
) -> None:
    leaf = authority.leaf("letterbox", "l1")
    with bad_server(leaf, tmp_path, says(f"{status}\nContent-Length: 4", b"word")) as port:
        client = LetterboxClient(f"127.0.0.1:{port}", name="l1", trust=trust_from(authority))
        with pytest.raises(kind) as caught:
            client.post("v1/post/x/1", b"frame")
        client.close()
    assert getattr(caught.value, "reason") == reason  # noqa: B009  # both classes have it


@pytest.mark.misuse
def test_a_mirror_is_no_letterbox(authority: Authority, tmp_path: Path, ablation: Ablation) -> None:
    leaf = authority.leaf("mirror", "l1")
    asked: list[bytes] = []

    def answer(connection: ssl.SSLSocket, head: bytes) -> None:
        asked.append(head)
        says("201 Yes\nContent-Length: 0")(connection, head)

    with bad_server(leaf, tmp_path, answer) as port:
        client = LetterboxClient(f"127.0.0.1:{port}", name="l1", trust=trust_from(authority))
        with pytest.raises(Refused):
            client.post("v1/post/x/1", b"frame")
        client.close()
        with ablation("the role in the demanded name") as attack:
            attack.without("embrasure.net.https.Server", as_mirror)
            client = LetterboxClient(f"127.0.0.1:{port}", name="l1", trust=trust_from(authority))
            client.post("v1/post/x/1", b"frame")
            client.close()
            attack.succeeded(asked[-1].endswith(b"frame"))


def as_mirror(address: str, role: str, *rest: Any) -> dial.Server:
    """Demand a mirror, whichever role was meant."""
    return dial.Server(address, "mirror", *rest)
