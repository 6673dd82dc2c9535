"""Every bad input of tests/vectors/door through the real door, over the real socket, onto a node
on which version 1.0 runs: refused as its file says, told, nothing changed, and the next honest
release installs. Without the one guard the same input gets through.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import pytest
from tuf.api.metadata import Metadata, Root, Targets

from embrasure import limits
from embrasure.bundle.manifest import Entry, Hook, Manifest, parse_manifest
from embrasure.bundle.store import BlobStore
from embrasure.descriptor import write_all
from embrasure.errors import EmbrasureError
from embrasure.fs import Folder
from embrasure.trust import canonical, layout
from embrasure.trust.client import TrustClient
from embrasure.trust.source import Source
from node import tree
from node.answering import Deaf, converse
from node.desk import Desk
from node.ipc import SOCKET, Listener, to_apply
from node.logs import FIELDS
from node.messages import Message, OrderAsk, PollAsk, pack
from node.records import NodeRecords
from tests.ablation import Ablation, Attack
from tests.simulate.installer import Confirms, SimInstaller
from tests.simulate.metadata import sign_metadata
from tests.simulate.releases import SimRelease
from tests.simulate.repository import SimRepository
from tests.simulate.sources import EndlessSource, MemorySource

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]
FOLDER = Path(__file__).parent.parent / "vectors" / "door"
ROWS = 30


class Expected(TypedDict):
    answer: str  # what the door says
    names: str  # what log or receipt names


class Without(TypedDict):
    guard: str | None
    then: str


class Vector(TypedDict):
    id: str
    title: str
    source: str
    input: dict[str, Any]  # one member: what kind of input, and what it is
    expected: Expected
    without: Without


VECTORS: list[Vector] = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("B*.json"))]
# Where the whole row is another test: B30 is the sweep with a full disk at every operation.
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
            return f"raised {problem.reason}"
        answer = heard.answers[0]
        return f"{answer.kind} {answer.reason}".strip()

    def poll(self, source: Source | None = None) -> str:
        return self.say(PollAsk(), source)

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

    def state(self) -> dict[str, object]:
        """Return all that must not change: the app's folder, and what lies beside the node."""
        top, beside = self.paths.app("shop"), self.paths.prefix.parent
        found: dict[str, object] = {}
        for path in sorted([*top.rglob("*"), *beside.iterdir()]):
            about, link = path.lstat(), path.readlink() if path.is_symlink() else None
            if path != self.paths.releases("shop"):  # staging comes and goes in it
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
    before, running, told = door.state(), door.bench.supervisor.running("shop"), door.told()
    answers: list[str] = []
    with caplog.at_level(logging.INFO, logger="node"):
        caplog.clear()
        yield answers.append
        lines = [f"{one.getMessage()} {vars(one).get(FIELDS)}" for one in caplog.records]
    assert answers == [vector["expected"]["answer"]]
    assert door.state() == before
    assert door.bench.supervisor.running("shop") == running
    assert not list(door.paths.releases("shop").glob(".*"))
    word = vector["expected"]["names"]
    record = door.bench.acceptor._ground.journal.read("shop").record
    journal = record.detail if record and answers[0].startswith("rejected") else ""
    named = [text for text in (*lines, journal) if words(word) & words(text)]
    # Who is turned away before he speaks is told himself.
    assert named or not word, (lines, journal)
    assert door.told() - told <= 1


def words(text: str) -> set[str]:
    """Return the reason words in a line: `bad-path` and `E_BAD_PATH` are one."""
    return {w.lower().removeprefix("e_").replace("_", "-") for w in re.findall(r"[\w-]+", text)}


def test_every_row_has_its_vectors() -> None:
    rows = {int(vector["id"][1:3]) for vector in VECTORS}
    assert rows | ELSEWHERE.keys() == set(range(1, ROWS + 1))
    for vector in VECTORS:
        assert (FOLDER / f"{vector['id']}.json").exists()
        assert vector["title"] and vector["source"] and vector["expected"]["answer"]


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


def unchecked(raw: bytes, shape: type[Any], *, limit: int, document: str) -> Any:
    """Believe whatever the bytes say, as a reader without a schema does."""
    whole = json.loads(raw)
    known = {name: value for name, value in whole.items() if name in shape.__struct_fields__}
    files = [{k: v for k, v in e.items() if k in Entry.__struct_fields__} for e in whole["files"]]
    return shape(**{**known, "files": tuple(Entry(**one) for one in files),
                    **dict.fromkeys(("hooks", "probes", "secrets", "requires"), ())})  # fmt: skip


def believed(vector: Vector, raw: bytes, attack: Attack) -> Manifest:
    """Return what the parser makes of the bytes without its guard."""
    guard = vector["without"]["guard"]
    if guard == "schema":
        for name in ("check_tree", "check_commands", "check_unused", "check_migration"):
            attack.without(f"embrasure.bundle.manifest.{name}")
        attack.without("embrasure.bundle.manifest.read", unchecked)
    elif guard == "embrasure.trust.canonical.check_text":
        attack.without(guard)
        attack.without("embrasure.bundle.manifest.check_tree")  # the same rule once more
    elif guard:
        attack.without(guard)
    return parse_manifest(raw)


@pytest.mark.misuse
@pytest.mark.parametrize("vector", [v for v in of("manifest") if "B27" not in v.id])
def test_a_hostile_manifest(
    door: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    raw, release = manifest_of(vector, door.bench.make("6.6"))
    door.publish(raw, release)
    with refused(door, vector, caplog) as say:
        say(door.poll())
    door.honest()
    with ablation(str(vector["without"]["guard"])) as attack:
        if vector["without"]["then"] == "installed":
            attack.without(str(vector["without"]["guard"]))
            door.publish(raw, release)
            attack.succeeded(door.poll() == "committed")
        else:
            attack.succeeded(believed(vector, raw, attack).app == "shop")


@pytest.mark.misuse
@pytest.mark.parametrize("vector", [v for v in of("manifest") if "B27" in v.id])
def test_a_manifest_that_is_too_much(
    door: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    raw, release = manifest_of(vector, door.bench.make("6.6"))
    door.publish(raw, release)
    with refused(door, vector, caplog) as say:
        say(door.poll())
    door.honest()
    with ablation(str(vector["without"]["guard"])) as attack:
        match vector["id"]:
            case "B27-many-entries":
                attack.without("embrasure.bundle.manifest.read", unchecked)
                for name in ("check_commands", "check_unused", "check_migration"):
                    attack.without(f"embrasure.bundle.manifest.{name}")
                attack.succeeded(len(parse_manifest(raw).files) > limits.FILES)
            case "B27-large":
                attack.without("embrasure.limits.MANIFEST_BYTES", len(raw))
                digest = canonical.sha256_hex(raw)
                path = next(path for path in door.repo.files if digest in path)
                pieces = door.bench.source().fetch(path, offset=0, limit=limits.MANIFEST_BYTES)
                attack.succeeded(len(b"".join(pieces)) == len(raw))
            case "B27-deep":
                attack.succeeded(json.loads(raw))  # what the standard reader does with it
            case _:
                attack.succeeded(json.loads(raw)["version"] == "6.6")  # and the last one wins


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
    with ablation("the count of bytes") as attack:
        store = BlobStore(door.paths.prefix / "other")
        with store.writer(digest, length=len(data)) as writer:
            write_all(writer._fd, bytes(10 * len(data)))  # the layer below
        attack.succeeded(store.held_bytes(digest) == 10 * len(data))
        store.close()


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
    if vector["id"] == "B14-swapped":
        door.publish(release.raw, release)
        with ablation("the hash of what is copied") as attack, monkeypatch.context() as patch:
            swapped(door, vector, patch)
            attack.without("node.placing.check_copied")
            attack.without("node.releases.is_whole", lambda *_, **__: True)
            door.poll()
            attack.succeeded(
                any(path.read_bytes() == b"evil" for path in
                    door.paths.releases("shop").glob("*/config/mode"))
            )  # fmt: skip
        next(door.paths.blobs.glob(f"*/{canonical.sha256_hex(b'good')}")).unlink()
        door.honest()
    else:
        door.publish(release.raw, release)
        with ablation("the look at what is named") as attack, monkeypatch.context() as patch:
            swapped(door, vector, patch)
            attack.without("node.tree.name_release", name_whatever)
            door.poll()
            attack.succeeded(any(path.is_symlink() for path in
                                 door.paths.releases("shop").iterdir()))  # fmt: skip


def name_whatever(releases: Folder, *, tx: str, release: str) -> None:
    """Give the name to whatever is there."""
    releases.rename(tree.staging_name(tx), releases, release)


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
    with ablation("the check of an order") as attack:
        attack.without("node.orderbook.check_order", lambda *_, **__: None)
        attack.succeeded(door.obeys(door.bench.order(**changes)) == "committed")


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


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("repository"))
def test_a_repository_that_nobody_approved(
    door: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    source = hostile(door, vector)
    with refused(door, vector, caplog) as say:
        say(door.poll(source))
    with ablation(str(vector["without"]["guard"])) as attack:
        attack.without(str(vector["without"]["guard"]), lambda *_, **__: None)
        if vector["without"]["then"] == "installed":
            attack.succeeded(door.poll(source) == "committed")
        else:
            fresh = TrustClient(door.paths.prefix / vector["id"], door.repo.anchor)
            attack.succeeded(fresh.refresh(source, roles=("fleet-dev", "dev-shop")).roles)
    door.honest()


# --- The node itself -----------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Door]:
    """A door of its own: what is done to it nobody else sees."""
    found = Door(tmp_path)
    yield found
    found.close()


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
    wish, old = vector["input"]["node"], own.repo.frozen_source()
    own.bench.publish("6.6")
    back = spoil(getattr(own.paths, wish["path"]), wish["do"])
    with refused(own, vector, caplog) as say:
        say(own.poll())
    with ablation(str(vector["without"]["guard"])) as attack:
        if wish["do"] == "chown":
            attack.without("node.ipc.check_folder")
            attack.succeeded(own.poll() == "committed")
        else:
            # Who begins again from nothing installs whatever was once approved.
            fresh = TrustClient(own.paths.prefix / "first", own.repo.anchor)
            attack.succeeded(fresh.refresh(old, roles=("fleet-dev", "dev-shop")).roles)
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
    with ablation("expiry") as attack:
        fresh = TrustClient(own.paths.prefix / "late", own.repo.anchor)  # by a clock that stands
        attack.succeeded(fresh.refresh(old, roles=("fleet-dev", "dev-shop")).roles)
    own.repo.touch(*own.repo.roles)
    own.honest()
