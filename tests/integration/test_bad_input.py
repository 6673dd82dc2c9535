"""Every bad input of tests/vectors/door through the real door, over the real socket, onto a node
on which version 1.0 runs: refused as its file says, told, nothing changed, and the next honest
release installs. The same input comes once more with the guard of its file taken away, and whatever
checks the same `again` behind it: then the door answers as `then` says, and the attacker has got
what the test looks for.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import pytest
from tuf.api.metadata import Metadata, Root, Targets

from embrasure import limits
from embrasure.bundle.manifest import Hook, Manifest
from embrasure.errors import EmbrasureError
from embrasure.trust import canonical, layout
from embrasure.trust.source import Source
from node import tree
from node.answering import Deaf, converse
from node.desk import Desk
from node.ipc import SOCKET, Listener, to_apply
from node.logs import FIELDS
from node.messages import Message, OrderAsk, PollAsk, pack
from node.records import NodeRecords
from tests.ablation import Ablation
from tests.simulate.guards import found, take_away
from tests.simulate.installer import Confirms, SimInstaller
from tests.simulate.metadata import sign_metadata
from tests.simulate.releases import SimRelease
from tests.simulate.repository import SimRepository
from tests.simulate.sources import EndlessSource, MemorySource
from tests.source import TOP

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]
FOLDER = Path(__file__).parent.parent / "vectors" / "door"
ROWS = 30


class Expected(TypedDict):
    answer: str  # what the door says
    names: str  # what log or receipt names


class Without(TypedDict):
    guard: str | None  # dotted name in the product; None: nothing on a node is harmed by it
    again: list[str]  # dotted names of what checks the same once more behind it
    then: str  # what the door says without them
    behind: str  # what stops it further on, in words of log or record; "" when nothing does


class Vector(TypedDict):
    id: str
    title: str
    source: str
    input: dict[str, Any]  # one member: what kind of input, and what it is
    expected: Expected
    without: Without


VECTORS: list[Vector] = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("B*.json"))]
# Where a row has more than vectors: B30 is also the sweep with a full disk at every operation.
ELSEWHERE = {30: "tests/integration/test_node_full.py"}


def of(kind: str, *, refused: bool = True) -> list[Any]:
    """Return the vectors of a kind; refused: those that have a guard, or those that do no harm."""
    return [pytest.param(v, id=v["id"]) for v in VECTORS
            if kind in v["input"] and (v["without"]["guard"] is not None) is refused]  # fmt: skip


class Door:
    """A node with its desk, and whoever talks to it as fetch does."""

    def __init__(self, folder: Path) -> None:
        self.bench = SimInstaller(folder)
        self.paths, self.repo = self.bench.paths, self.bench.repo
        self.version = 0
        self.oseq = 10
        self.said: list[str] = []  # what whoever asked was told as an error
        self.listener = Listener(self.paths.run, SOCKET)
        self.stop = threading.Event()
        desk = Desk(self.bench.acceptor, NodeRecords(self.paths), allowed=frozenset({os.geteuid()}))
        self.thread = threading.Thread(target=desk.serve, args=(self.listener, self.stop))
        self.thread.start()
        (self.paths.prefix / "theirs").mkdir()
        self.honest()

    def close(self) -> None:
        self.stop.set()
        self.thread.join()
        self.listener.close()
        self.bench.close()

    def say(self, ask: Message, source: Source | None = None) -> str:
        """Return what the door answers, `kind reason`, or what it raises."""
        try:
            with to_apply(self.paths) as channel:
                heard = converse(channel, ask, source or self.bench.source(), Deaf())
        except EmbrasureError as problem:
            self.said.append(f"{problem} [{problem.word}]")
            return f"raised {problem.reason}"
        answer = heard.answers[0]
        return f"{answer.kind} {answer.reason}".strip()

    def poll(self, source: Source | None = None) -> str:
        return self.say(PollAsk(), source)

    def decides(self) -> str:
        """Return the verdict on what is published, as every install asks for it first."""
        return self.bench.acceptor._judged("shop", self.bench.source()).verdict.kind

    def obeys(self, envelope: bytes) -> str:
        """Return what becomes of an order whose gateway confirms."""
        bench = self.bench
        return bench.acceptor.order(envelope, bench.source(), Confirms(bench)).kind

    def honest(self) -> None:
        """The next honest release installs and answers."""
        self.version += 1
        self.bench.publish(f"{self.version}.0")
        assert self.poll() == "committed"
        assert self.bench.ask() == f"{self.version}.0"

    def publish(self, raw: bytes, release: SimRelease) -> None:
        """A manifest of these very bytes is approved, planned and open for this node."""
        made = SimRelease(release.manifest, raw, canonical.sha256_hex(raw), release.blobs)
        self.bench.publish(release=made)

    def state(self, *, begun: bool) -> dict[str, object]:
        """Return all that must not change: the app's folder, what the owner and the node itself
        wrote, and what lies beside the node. Not what an honest refusal writes.

        begun: a transaction was, and went no further
        """
        paths = self.paths
        told = {paths.outbox, paths.state / "alarms.json", paths.logs}
        risen = {paths.tuf, paths.floors, paths.told}  # with what verified on the way
        passed = told | risen | ({paths.journal, paths.blobs} if begun else set())
        # Names come and go in these: staging, and a file before it takes the place of another.
        busy = {paths.releases("shop"), paths.state}
        inside = (path for top in (paths.app("shop"), paths.config, paths.data)
                  for path in top.rglob("*"))  # fmt: skip
        found: dict[str, object] = {}
        for path in sorted([*inside, *paths.prefix.parent.iterdir()]):
            if path in busy | passed or passed & set(path.parents):
                continue
            about, link = path.lstat(), path.readlink() if path.is_symlink() else None
            found[str(path)] = (about.st_mode, about.st_ino, about.st_mtime_ns, link)
        return found

    def told(self) -> int:
        return len(self.bench.told())


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    found = Door(tmp_path_factory.mktemp("door"))
    yield found
    found.close()


@contextmanager
def refused(
    door: Door, vector: Vector, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[[str], None]]:
    """What happens inside changes nothing, is answered as the vector says, told once, and named."""
    begun = vector["expected"]["answer"].startswith("rejected")
    before, told = door.state(begun=begun), door.told()
    running = door.bench.supervisor.running("shop")
    answers: list[str] = []
    with caplog.at_level(logging.INFO, logger="node"):
        caplog.clear()
        yield answers.append
        # Who is turned away before he speaks is told himself.
        lines = logged(caplog) + (door.said if "raised" in answers[0] else [])
    assert answers == [vector["expected"]["answer"]]
    assert door.state(begun=begun) == before
    assert door.bench.supervisor.running("shop") == running
    assert not list(door.paths.releases("shop").glob(".*"))
    word = vector["expected"]["names"]
    record = door.bench.acceptor._ground.journal.read("shop").record
    journal = record.detail if record and answers[0].startswith("rejected") else ""
    named = [text for text in (*lines, journal) if words(word) & words(text)]
    assert named or not word, (lines, journal)
    assert door.told() - told <= 1


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the node logged since the last `clear`."""
    return [f"{one.getMessage()} {vars(one).get(FIELDS)}" for one in caplog.records]


def words(text: str) -> set[str]:
    """Return the reason words in a line: `bad-path` and `E_BAD_PATH` are one."""
    return {w.lower().removeprefix("e_").replace("_", "-") for w in re.findall(r"[\w-]+", text)}


def test_every_row_has_its_vectors() -> None:
    rows = {int(vector["id"][1:3]) for vector in VECTORS}
    assert rows | ELSEWHERE.keys() == set(range(1, ROWS + 1))
    for vector in VECTORS:
        assert (FOLDER / f"{vector['id']}.json").exists()
        assert vector["title"] and vector["source"] and vector["expected"]["answer"]
        # Whoever renames a guard renames it here, too: it is what is taken away below.
        assert all(callable(one) or isinstance(one, int) for one in map(found, names_of(vector)))
    for path in ELSEWHERE.values():
        assert "pytest.mark.misuse" in (TOP / path).read_text()


def names_of(vector: Vector) -> list[str]:
    """Return the guard of a vector, and what checks the same again behind it."""
    guard = vector["without"]["guard"]
    return [guard, *vector["without"]["again"]] if guard else []


# --- Manifests that k operators signed -----------------------------------------------------------


def manifest_of(vector: Vector, base: SimRelease) -> tuple[bytes, SimRelease]:
    """Return the bytes of the vector's manifest, and the release with blobs for all its files."""
    wish = vector["input"]["manifest"]
    blobs = dict(base.blobs)
    if "raw" in wish:
        return wish["raw"].encode(), base
    if "pad" in wish:
        return base.raw + b" " * (wish["pad"] - len(base.raw)), base
    if "twin" in wish:
        name = f'"{wish["twin"]}":'.encode()
        return base.raw.replace(name, name + b'"0",' + name), base
    whole = json.loads(base.raw)
    for number in range(wish.get("many", 0)):
        whole["files"].append(entry_of({"path": f"code/{number:07}", "kind": "file", "mode": "0444",
                                        "data": ""}, blobs))  # fmt: skip
    whole["files"] += [entry_of(one, blobs) for one in wish.get("files", ())]
    whole["files"].sort(key=lambda one: one["path"])
    whole.update(wish.get("changes", {}))
    return canonical.canonical(whole), SimRelease(base.manifest, base.raw, base.digest, blobs)


def entry_of(wish: Mapping[str, Any], blobs: dict[str, bytes]) -> dict[str, Any]:
    data = (wish.get("target") or wish.get("data", "")).encode()
    digest = canonical.sha256_hex(data)
    if wish["kind"] == "file":
        blobs[digest] = data
    made = {"target": None, **wish, "length": len(data), "sha256": digest}
    made.pop("data", None)
    return made


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("manifest"))
def test_a_hostile_manifest(
    door: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    raw, release = manifest_of(vector, door.bench.make("6.6"))
    door.publish(raw, release)
    with refused(door, vector, caplog) as say:
        say(door.poll())
    door.honest()
    door.publish(raw, release)
    caplog.clear()
    with ablation(str(vector["without"]["guard"])) as attack:
        take_away(attack, *names_of(vector))
        if vector["without"]["then"] == "install":  # the verdict: its files are too many for a test
            attack.succeeded(door.decides() == "install")
        else:
            assert door.poll() == vector["without"]["then"]
            attack.succeeded(gained(door, vector, raw, caplog))


def gained(door: Door, vector: Vector, raw: bytes, caplog: pytest.LogCaptureFixture) -> bool:
    """Return whether the attacker got what he has without the guard.

    Installed: each entry of his lies in the release that runs, as he wanted it. Stopped further
    on: the node had begun with this very manifest, and only what is `behind` ended that.
    """
    wish, wanted = vector["input"]["manifest"], vector["without"]
    record = door.bench.acceptor._ground.journal.read("shop").record
    is_his = record is not None and record.to.manifest == canonical.sha256_hex(raw)
    if "prints" in wish:
        logs = [path.read_text() for path in door.paths.logs.rglob("*") if path.is_file()]
        assert any(wish["prints"] in log for log in logs), "his command ran"
    if record is None or wanted["then"] != "committed":
        said = [record.detail] if record is not None and is_his else logged(caplog)
        return any(wanted["behind"] in one for one in said) and (
            is_his or wanted["then"] == vector["expected"]["answer"]
        )
    for entry in wish.get("files", ()):
        path = door.paths.current("shop") / entry["path"]
        if entry["kind"] == "link":
            assert str(path.readlink()) == entry["target"]
        else:
            assert stat.S_IMODE(path.lstat().st_mode) == int(entry["mode"], 8)
            assert path.read_bytes() == entry["data"].encode()
    return is_his


@pytest.mark.parametrize("vector", of("manifest", refused=False))
def test_a_manifest_that_only_looks_hostile(door: Door, vector: Vector) -> None:
    beside = {path: path.lstat().st_mtime_ns for path in door.paths.prefix.parent.iterdir()}
    raw, release = manifest_of(vector, door.bench.make("6.6"))
    door.publish(raw, release)
    assert door.poll() == vector["expected"]["answer"]
    assert beside == {path: path.lstat().st_mtime_ns for path in door.paths.prefix.parent.iterdir()}
    for wish in vector["input"]["manifest"]["files"]:
        assert (door.paths.current("shop") / wish["path"]).read_bytes() == wish["data"].encode()
    door.honest()


# --- Sources that lie ----------------------------------------------------------------------------


class TenfoldSource(MemorySource):
    """Gives ten times as many bytes of one blob as were signed."""

    def __init__(self, files: MutableMapping[str, bytes], digest: str) -> None:
        super().__init__(files)
        self._path = layout.blob_file(digest)

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        if path != self._path:
            yield from super().fetch(path, offset=offset, limit=limit)
            return
        yield from [self.files[path]] * 10


class Dripping(MemorySource):
    """Gives one byte at a time."""

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        for piece in super().fetch(path, offset=offset, limit=limit):
            yield from (piece[at : at + 1] for at in range(len(piece)))


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("source"))
def test_a_source_that_gives_more_than_was_signed(
    door: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    data = os.urandom(vector["input"]["source"]["length"])
    digest = canonical.sha256_hex(data)
    release = door.bench.make("6.6", files={vector["input"]["source"]["path"]: data})
    door.publish(release.raw, release)
    source = EndlessSource(MemorySource(door.repo.files), layout.blob_file(digest))
    with refused(door, vector, caplog) as say:
        say(door.poll(source))
    assert source.sent < len(data) + 4 * limits.BUFFER_BYTES + limits.MIB, (
        "nothing is asked for more"
    )
    held = door.paths.blobs / ".partial" / digest
    assert not held.exists() or held.stat().st_size <= len(data)
    door.honest()
    door.publish(release.raw, release)
    with ablation(str(vector["without"]["guard"])) as attack:
        take_away(attack, *names_of(vector))
        assert door.poll(TenfoldSource(door.repo.files, digest)) == vector["without"]["then"]
        attack.succeeded(held.stat().st_size == 10 * len(data))
    held.unlink()
    door.honest()


@pytest.mark.parametrize("vector", of("source", refused=False))
def test_a_source_that_drips(door: Door, vector: Vector) -> None:
    data = os.urandom(vector["input"]["source"]["length"])
    release = door.bench.make("6.6", files={vector["input"]["source"]["path"]: data})
    door.publish(release.raw, release)
    assert door.poll(Dripping(door.repo.files)) == vector["expected"]["answer"]
    assert (door.paths.current("shop") / "code/data").read_bytes() == data
    door.honest()


# --- What changes on the disk between two looks --------------------------------------------------


def swapped(door: Door, vector: Vector, patch: pytest.MonkeyPatch) -> Path:
    """When the install gets to the state of the vector, the disk changes once."""
    wish, ground = vector["input"]["swap"], door.bench.acceptor._ground
    real, outside = ground.journal.write, door.paths.prefix / "theirs"

    def write(record: Any) -> None:
        real(record)
        if record.state != wish["at"]:
            return
        if "link" in wish:
            staging = door.paths.releases("shop") / tree.staging_name(record.tx)
            staging.rename(outside / record.tx)
            staging.symlink_to(outside / record.tx)
        elif "owner" in wish:
            staging = door.paths.releases("shop") / tree.staging_name(record.tx)
            os.chown(staging, wish["owner"], wish["owner"])
        else:
            digest = canonical.sha256_hex(wish["data"].encode())
            path = door.paths.blobs / digest[:2] / digest
            path.chmod(0o644)
            path.write_bytes(wish["with"].encode())

    patch.setattr(ground.journal, "write", write)
    return outside


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("swap"))
def test_a_disk_that_changes_between_check_and_use(
    door: Door,
    vector: Vector,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    ablation: Ablation,
) -> None:
    release = door.bench.make("6.6")
    door.publish(release.raw, release)
    with monkeypatch.context() as patch, refused(door, vector, caplog) as say:
        swapped(door, vector, patch)
        say(door.poll())
    door.honest()
    door.publish(release.raw, release)
    with ablation(str(vector["without"]["guard"])) as attack, monkeypatch.context() as patch:
        outside = swapped(door, vector, patch)
        take_away(attack, *names_of(vector))
        assert door.poll() == vector["without"]["then"]
        releases, wish = door.paths.releases("shop"), vector["input"]["swap"]
        match wish:
            case {"link": True}:
                got = [one for one in releases.iterdir() if one.is_symlink()]
                assert all(one.readlink().parent == outside for one in got)
            case {"owner": stranger}:
                got = [one for one in releases.iterdir() if one.stat().st_uid == stranger]
            case _:
                got = [one for one in releases.glob("*/config/mode")
                       if one.read_bytes() == wish["with"].encode()]  # fmt: skip
        attack.succeeded(got)
    for blob in door.paths.blobs.glob(f"*/{canonical.sha256_hex(b'good')}"):
        blob.unlink()
    door.honest()


# --- Orders --------------------------------------------------------------------------------------


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("order"))
def test_an_order_that_is_not_for_this_node(
    door: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    door.bench.publish("6.6")
    door.oseq += 10
    changes = {"oseq": door.oseq, **vector["input"]["order"]}
    if "oseq" in vector["input"]["order"]:
        assert door.obeys(door.bench.order(oseq=door.oseq)) == "committed"
        door.bench.publish("6.7")
    envelope = door.bench.order(**changes)
    with refused(door, vector, caplog) as say:
        say(door.say(OrderAsk(envelope=pack(envelope))))
    door.honest()
    door.bench.publish("6.8")
    with ablation(str(vector["without"]["guard"])) as attack:
        take_away(attack, *names_of(vector))
        attack.succeeded(door.obeys(door.bench.order(**changes)) == vector["without"]["then"])


# --- Metadata ------------------------------------------------------------------------------------


def with_hook(manifest: Manifest) -> Manifest:
    hook = Hook(point="finish", argv=("python3", "-c", "111"), timeout_s=5)
    return msgspec.structs.replace(manifest, hooks=(hook,))


def hostile(door: Door, vector: Vector) -> Source:
    """Return a source with a repository as the vector wants it, of a plan that is not installed."""
    wish, repo, role = vector["input"]["repository"], door.repo, "dev-shop"
    if "replay" in wish:
        source = repo.frozen_source()
        door.honest()
        (door.paths.tuf / wish["lost"]).unlink()  # a power cut: what is left is the floors
        return source
    if "signers" in wish:
        honest = repo.sign_with[role]
        repo.sign_with[role] = honest[: wish["signers"]]
        door.bench.publish("6.6")
        repo.sign_with[role] = honest
        return repo.frozen_source()
    older = Metadata[Targets].from_bytes(
        repo.files[layout.metadata_file(role, repo.versions[role])]
    )
    release = door.bench.make("6.6", change=with_hook)
    door.publish(release.raw, release)
    files = dict(repo.files)
    if "signatures" in wish:
        path = layout.metadata_file(role, repo.versions[role])
        mixed = Metadata[Targets].from_bytes(files[path])
        mixed.signatures = older.signatures
        files[path] = mixed.to_bytes()
    elif "root" in wish:
        stranger = SimRepository()
        signed = Metadata[Root].from_bytes(repo.files["metadata/1.root.json"]).signed
        signed.version += 1
        files["metadata/2.root.json"] = sign_metadata(signed, stranger.holders)
    else:
        path = next(path for path in files if release.digest in path)
        files[path] = release.raw.replace(b'"-c","111"', b'"-c","666"')
    return MemorySource(files)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Door]:
    """A door of its own: what is done to it nobody else sees."""
    found = Door(tmp_path)
    yield found
    found.close()


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("repository"))
def test_a_repository_that_nobody_approved(
    request: pytest.FixtureRequest,
    vector: Vector,
    caplog: pytest.LogCaptureFixture,
    ablation: Ablation,
) -> None:
    # A node that once believed a strange root takes nothing from the honest team any more.
    is_final = "root" in vector["input"]["repository"]
    door: Door = request.getfixturevalue("own" if is_final else "door")
    source = hostile(door, vector)
    with refused(door, vector, caplog) as say:
        say(door.poll(source))
    with ablation(str(vector["without"]["guard"])) as attack:
        take_away(attack, *names_of(vector))
        answer = door.poll(source)
        assert answer == vector["without"]["then"], door.said
        record = door.bench.acceptor._ground.journal.read("shop").record
        attack.succeeded(record and vector["without"]["behind"] in record.detail)
    if not is_final:
        door.honest()


# --- The node itself -----------------------------------------------------------------------------


def spoil(folder: Path, how: str) -> Callable[[], None]:
    """Do it to the folder or all files in it; return how it is taken back."""
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    if how == "chown":
        os.chown(folder, 54321, 54321)
    else:
        for path in kept:
            path.unlink() if how == "delete" else path.write_bytes(b"")

    def back() -> None:
        os.chown(folder, os.geteuid(), os.getegid())
        if how != "chown":
            for path, raw in kept.items():
                path.write_bytes(raw)
                path.chmod(0o600)

    return back


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("node"))
def test_a_node_whose_trust_was_taken_away(
    own: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    wish = vector["input"]["node"]
    own.bench.publish("6.6")
    back = spoil(getattr(own.paths, wish["path"]), wish["do"])
    with refused(own, vector, caplog) as say:
        say(own.poll())
    with ablation(str(vector["without"]["guard"])) as attack:
        take_away(attack, *names_of(vector))
        attack.succeeded(own.poll() == vector["without"]["then"])
    back()
    own.honest()


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("clock"))
def test_metadata_that_has_expired(
    own: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    own.bench.publish("6.6")
    old = own.repo.frozen_source()
    own.bench.clock.ahead += timedelta(**vector["input"]["clock"])
    with refused(own, vector, caplog) as say:
        say(own.poll(old))
    with ablation(str(vector["without"]["guard"])) as attack:
        take_away(attack, *names_of(vector))
        attack.succeeded(own.poll(old) == vector["without"]["then"])
    own.repo.touch(*own.repo.roles)
    own.honest()


# --- Its disk ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount one of so many MiB."""
    where = tmp_path / "disk"
    where.mkdir()

    def mount(mib: int) -> Path:
        options = f"size={mib}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", where], check=True)
        return where

    yield mount
    subprocess.run(["umount", "-l", where], check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("disk"))
def test_a_release_that_is_larger_than_the_disk(
    small_disk: Callable[[int], Path],
    vector: Vector,
    caplog: pytest.LogCaptureFixture,
    ablation: Ablation,
) -> None:
    wish = vector["input"]["disk"]
    disk = small_disk(wish["mib"])
    with closing(Door(disk)) as door:
        data = bytes(wish["length"])
        release = door.bench.make("6.6", files={wish["path"]: data})
        door.publish(release.raw, release)
        with refused(door, vector, caplog) as say:
            say(door.poll())
        held = door.paths.blobs / ".partial" / canonical.sha256_hex(data)
        assert not held.exists(), "nothing of it was asked for"
        door.honest()
        door.publish(release.raw, release)
        with ablation(str(vector["without"]["guard"])) as attack:
            take_away(attack, *names_of(vector))
            assert door.poll() == vector["without"]["then"]
            record = door.bench.acceptor._ground.journal.read("shop").record
            assert record is not None and vector["without"]["behind"] in record.detail
            found = os.statvfs(disk)
            attack.succeeded(
                held.stat().st_size > found.f_blocks * found.f_frsize * 9 // 10
                and found.f_bavail * found.f_frsize <= 2 * limits.MIB  # and the ballast is in it
            )
        held.unlink()
        door.honest()
