"""A mirror's word on root steps, beside its timestamp: it spares a question, and hides no root."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from embrasure import limits
from embrasure.errors import NotFound
from embrasure.net.https import MirrorSource
from embrasure.trust.client import TrustClient
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.badserver import bad_server, says
from tests.simulate.box import away, bundle_of, running
from tests.simulate.listener import trust_from
from tests.simulate.repository import SimRepository

TIMESTAMP = "metadata/timestamp.json"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class Teller:
    """A mirror that has a timestamp and no root, and says what it is told to say."""

    def __init__(self, word: str) -> None:
        self.word, self.asked, self.now = word, list[str](), 0.0

    def __call__(self, connection: ssl.SSLSocket, head: bytes) -> None:
        path = head.split()[1].decode()[1:]
        self.asked.append(path)
        answer = says("404 No\nContent-Length: 0")
        if path == TIMESTAMP:
            answer = says(f"200 OK\nContent-Length: 2\nEmbrasure-Root: {self.word}", b"{}")
        answer(connection, head)

    def steady(self) -> float:
        return self.now


@contextlib.contextmanager
def telling(word: str, authority: Authority, folder: Path) -> Iterator[tuple[MirrorSource, Teller]]:
    teller = Teller(word)
    with bad_server(authority.leaf("mirror", "m1"), folder, teller) as port:
        trust = trust_from(authority)
        source = MirrorSource(f"127.0.0.1:{port}", name="m1", trust=trust, steady=teller.steady)
        with contextlib.closing(source):
            assert fetch(source, TIMESTAMP) == b"{}"
            yield source, teller


def fetch(source: MirrorSource, path: str) -> bytes:
    return b"".join(source.fetch(path, offset=0, limit=100))


def absent(source: MirrorSource, version: int) -> None:
    with pytest.raises(NotFound):
        fetch(source, f"metadata/{version}.root.json")


def test_the_step_after_the_newest_is_not_asked_for(authority: Authority, tmp_path: Path) -> None:
    with telling("3", authority, tmp_path) as (source, teller):
        absent(source, 4)
        assert teller.asked == [TIMESTAMP]


@pytest.mark.parametrize("version", [2, 3, 5])
def test_every_other_step_is_asked_for(authority: Authority, tmp_path: Path, version: int) -> None:
    """An older one, which it has; a later one, if it has a gap."""
    with telling("3", authority, tmp_path) as (source, teller):
        absent(source, version)
        assert teller.asked == [TIMESTAMP, f"metadata/{version}.root.json"]


@pytest.mark.parametrize("word", ["", "0", "-3", "03", "+3", "3.0", "3 ", "1234567890", "a"])
def test_a_word_that_is_no_version_is_none(authority: Authority, tmp_path: Path, word: str) -> None:
    with telling(word, authority, tmp_path) as (source, teller):
        absent(source, 4)
        assert teller.asked == [TIMESTAMP, "metadata/4.root.json"]


def test_a_word_counts_for_the_next_question_alone(authority: Authority, tmp_path: Path) -> None:
    for between in (4, 9):
        with telling("3", authority, tmp_path) as (source, teller):
            absent(source, between)
            absent(source, 4)
            assert teller.asked[-1] == "metadata/4.root.json"


def test_a_word_that_was_passed_on_is_not_kept(authority: Authority, tmp_path: Path) -> None:
    with telling("3", authority, tmp_path) as (source, teller):
        assert source.foretold() == "metadata/4.root.json"
        assert source.foretold() == ""
        absent(source, 4)
        assert teller.asked == [TIMESTAMP, "metadata/4.root.json"]


@pytest.mark.misuse
def test_an_old_word_hides_no_root(
    authority: Authority, tmp_path: Path, ablation: Ablation
) -> None:
    with telling("3", authority, tmp_path) as (source, teller):
        teller.now += limits.FORETOLD_SECONDS + 1
        absent(source, 4)
        assert teller.asked[-1] == "metadata/4.root.json"
    with ablation("the time that a word counts") as attack:
        attack.without("embrasure.limits.FORETOLD_SECONDS", 10**6)
        with telling("3", authority, tmp_path) as (source, teller):
            teller.now += 10**5
            absent(source, 4)
            attack.succeeded(teller.asked == [TIMESTAMP])


def test_a_mirror_says_how_far_its_steps_go_and_no_node_misses_one(
    authority: Authority, tmp_path: Path
) -> None:
    repo = SimRepository()
    repo.add_node(mode="pull")
    repo.set_bundle(bundle_of(authority, repo))
    repo.publish()

    async def work() -> None:
        (tmp_path / "tuf").mkdir(mode=0o700)
        client = TrustClient(tmp_path / "tuf", repo.anchor, clock=repo.clock)
        async with running(tmp_path / "m", authority, repo) as box, box.uploader() as gateway:
            await gateway.send_all(repo.files)
            source = box.source()
            with contextlib.closing(source):
                for version in (1, 2, 3):
                    _, headers, _ = await away(box.ask, "GET", f"/{TIMESTAMP}")
                    assert headers["embrasure-root"] == str(version)
                    for _ in range(2):  # the second one finds nothing new
                        view = await away(lambda: client.refresh(source, roles=()))
                        assert view.roles["root"].version == version
                    repo.replace_keys("timestamp", [CryptoSigner.generate_ed25519()])
                    repo.publish()
                    await gateway.send_all(repo.files)
            for path in ("metadata/1.root.json", "metadata/9.root.json", "metadata/trust.json"):
                _, headers, _ = await away(box.ask, "GET", f"/{path}")
                assert "embrasure-root" not in headers

    asyncio.run(work())
