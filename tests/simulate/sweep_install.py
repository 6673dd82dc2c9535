"""Scenes of the sweep: installs that go forward and back, and what must hold after any fault."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec

from embrasure import fsops, limits
from embrasure.bundle.manifest import Entry, FileAgeProbe, Hook, Manifest, parse_manifest
from embrasure.bundle.packing import PackedSource
from embrasure.bundle.store import PARTIAL
from embrasure.bundle.twins import TWIN
from embrasure.errors import EmbrasureError
from embrasure.fsops import Op
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import write
from embrasure.trust.floors import Floors, FloorStore
from embrasure.trust.receipt import Kind as ReceiptKind
from embrasure.trust.receipt import Outcome, Reason, Receipt, chain_hash
from embrasure.trust.source import Source
from node.collection import live_blobs
from node.ground import Report
from node.journal import Journal
from node.judge import Judge, Judgement
from node.paths import Paths
from node.states import RESTING
from node.verify import verify
from tests.simulate.faults import Faults
from tests.simulate.inner import ALIVE
from tests.simulate.installer import SimInstaller, Told
from tests.simulate.releases import SimRelease
from tests.simulate.sweep import Counters
from tests.simulate.trees import copy_tree

APP = "shop"
SWITCHED = 0  # slot of the counters
MIGRATED = "migrated"  # in the data folder while the data is as the new release wants it
_UNFINISHED = re.compile(r"\.tmp-.*|\.current\.new|\.[0-9a-f]{32}\.new|.*\.next|\..*\.json\.new")
_NEW, _NEXT = "5.0", "9.0"
_FOLDERS = "config", "code/lib"  # of what comes as a pack; what is code may be run


def sign_of_life() -> FileAgeProbe:
    """Return a probe that passes as soon as the app was started."""
    return FileAgeProbe(
        path=ALIVE, max_age_s=600, interval_ms=20, timeout_ms=1000, start_s=1, passes=1
    )


def small(
    bench: SimInstaller, version: str, mode: str = "good", hooks: Sequence[Hook] = (), more: int = 0
) -> SimRelease:
    """Return a release with a few files, a folder in a folder, a link, and its own bytes.

    Where files are second names, the last two releases share one that no earlier one has.
    """
    files = {
        "code/main.py": b"# an app that is a file of the node\n",
        "code/lib/deep/a.py": f"version = {version!r}\n".encode(),
        "code/lib/b.py": b"same in all\n",
        **{f"{_FOLDERS[n % 4 == 0]}/more/{n}.py": b"number = %d\n" % n for n in range(more)},
    }
    if bench.owned and version in (_NEW, _NEXT):
        files["code/lib/c.py"] = b"new in both\n"

    def changed(manifest: Manifest) -> Manifest:
        link = Entry(
            path="code/lib/latest", kind="link", mode="0777", length=4, sha256=sha256_hex(b"b.py"),
            target="b.py",
        )  # fmt: skip
        entries = tuple(sorted((*manifest.files, link), key=lambda entry: entry.path))
        return msgspec.structs.replace(manifest, files=entries, hooks=tuple(hooks))

    return bench.make(version, mode, files=files, probes=[sign_of_life()], change=changed)


class Arming(Told):
    """Arms the faults at the first state, and counts what was told."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    def progress(self, state: str, done: int, total: int) -> None:
        if state == "offered":
            self._faults.arm()


class Switches:
    """Counts how often `current` is made to name the new release, in whichever process."""

    def __init__(self, counters: Counters, release: str) -> None:
        self._counters, self._release = counters, release
        self._next = ""

    def before(self, op: Op) -> int | None:
        if op.call == "symlink":
            self._next = op.target
        return None

    def after(self, op: Op, result: int) -> None:
        if op.call == "rename" and op.new == "current" and self._next.endswith(self._release):
            self._counters.add(SWITCHED)


class InstallScene:
    """A node that is about to install, and what it must look like after any one fault.

    held: versions that were committed before; mode: `crash` for a release that must go back; more:
    so many files more, which come as a pack; owned: apps have a user, so that files of a release
    are second names of blobs and of their executable twins.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        held: Sequence[str] = (),
        mode: str = "good",
        hooks: Sequence[Hook] = (),
        more: int = 0,
        owned: bool = False,
    ) -> None:
        self.name, self.why, self.gives_back = name, "", True
        self._hook_took = False
        self._bench = SimInstaller(root / name, inner=True, owned=owned)
        self._bench.paths.app_toml(APP).chmod(0o600)
        self.approved = set[str]()  # digests of manifests
        for version in held:
            self._publish(small(self._bench, version))
            assert self._bench.poll() == "committed"
        last = self._held = held[-1] if held else ""
        self._new = _NEW
        self.end = "rolled_back" if mode == "crash" else "committed"
        self._allowed = {last} if mode == "crash" else {last, self._new}
        self._publish(small(self._bench, self._new, mode, hooks, more))
        self._source = PackedSource(self._bench.repo.frozen_source())
        self._plan = self._bench.plan
        self._bench.close()
        self._publish(small(self._bench, _NEXT))
        self._later = self._bench.repo.frozen_source()
        self._first = self._bench.paths.prefix
        self._judged: Judgement | None = None
        self._next: Judgement | None = None

    def _publish(self, release: SimRelease) -> None:
        self.approved.add(self._bench.publish(release=release).manifest.sha256)

    # In a worker

    def enter(self, folder: Path, counters: Counters) -> Path:
        """Return the base: the node right after the verdict `install`, which is kept in memory."""
        self._counters, bench = counters, self._bench
        copy_tree(self._first, folder)
        bench.paths = Paths(folder)
        bench.open()
        judge = bench.acceptor._judge
        self._judge: Judge = judge
        self._judged = self._verdict(judge, self._source)
        bench.close()
        base = folder.with_name("base")
        copy_tree(folder, base)
        self._before = FloorStore(bench.paths.floors).load()
        bench.open()
        self._next = self._verdict(judge, self._later)
        bench.close()
        return base

    def _verdict(self, judge: Judge, source: Source) -> Judgement:
        found = judge.judge(APP, judge.refresh(source, APP), source)
        assert found.verdict.kind == "install", found.verdict
        return found

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        try:
            self._bench.open()
            # The verdict is known already: what is swept is what follows from it.
            self._bench.acceptor._installer._judge = self._judge
            yield
        finally:
            self._ran = self._bench.supervisor.running(APP)
            self._bench.close()

    def serving(self) -> list[str]:
        """I8: a disk that takes nothing does not stop what was committed, nor what replaces it; but
        what was committed never runs on data whose migration has begun.
        """
        if not self._held or self._ran is not None:
            return []
        record = Journal(self.paths).read(APP).record
        if record is None or record.state in RESTING or record.migrated == "no":
            return ["I8: nothing runs any more"]
        self._hook_took = True  # what the ballast gave, perhaps
        return []

    def starts(self) -> list[str]:
        """I8: nor does a start on it."""
        with contextlib.suppress(EmbrasureError), self.opened():
            pass
        return [f"{wrong}, after a start" for wrong in self.serving()]

    def act(self, faults: Faults) -> str:
        assert self._judged is not None
        self.why, self._hook_took = "", False
        try:
            with self.opened(), faults, self._watched():
                answer = self._bench.acceptor._installer.act(
                    APP, self._judged, self._source, Arming(faults), nonce="0" * 32, confirm=None
                )
            record = self._bench.acceptor._ground.journal.read(APP).record
        except EmbrasureError as problem:
            self.why = problem.reason
            return str(problem)
        said = record.detail if record is not None else ""
        if answer.kind != self.end:
            self.why = answer.reason
            return f"{answer.kind} {answer.reason} {said}"
        switches = self._counters.get(SWITCHED)
        return "" if switches == 1 else f"{switches} switches in one install"

    def judged(self, report: Report) -> str:
        """Return how the install ends that nothing disturbs; to be called while opened."""
        assert self._judged is not None
        answer = self._bench.acceptor._installer.act(
            APP, self._judged, self._source, report, nonce="0" * 32, confirm=None
        )
        return answer.kind

    @property
    def paths(self) -> Paths:
        """Where the node is now."""
        return self._bench.paths

    def recover(self, faults: Faults) -> None:
        with faults, self._watched():
            faults.arm()
            with self.opened():
                pass

    def _watched(self) -> contextlib.AbstractContextManager[None]:
        assert self._judged is not None
        assert self._judged.docs is not None
        assert self._judged.docs.plan is not None
        plan = self._judged.docs.plan
        return fsops.watched(Switches(self._counters, f"{plan.seq}-{plan.manifest.sha256[:16]}"))

    # After it

    def check(self) -> list[str]:
        """Return which invariant is broken."""
        paths = self._bench.paths
        switches = self._counters.get(SWITCHED)
        wrong = [] if switches <= 1 else [f"I5: {switches} switches"]
        return [*wrong, *self._rest(paths)]

    def goes_on(self) -> list[str]:
        return list(self._next_installs(self._bench.paths))

    def _rest(self, paths: Paths) -> Iterator[str]:
        bench = self._bench
        record = bench.acceptor._ground.journal.read(APP).record
        if record is not None and (record.state not in RESTING or record.ending == "degraded"):
            yield f"I3: rests in {record.state}, {record.ending}, {record.detail}"
        if record is not None and record.transitions > 32:
            yield f"I3: {record.transitions} transitions"
        version, told = self._running(paths), self._was_told()
        if version not in self._allowed:
            yield f"I1: {version or 'nothing'} is linked, allowed: {sorted(self._allowed)}"
        if version != self._new and (paths.shared(APP) / MIGRATED).exists():
            yield f"{version} runs on data that {self._new} has changed"
        if told and version != self._new:
            yield f"I2: {self._new} was told soaked, {version or 'nothing'} runs"
        (found,) = verify(paths, APP)
        if found.drift:
            yield f"I1: {found.drift[:3]}"
        instance = bench.supervisor.running(APP)
        link = paths.current(APP)
        if (instance.unit.release if instance else "") != (
            link.readlink().name if link.is_symlink() else ""
        ):
            yield f"{instance.unit.release if instance else 'nothing'} runs, not `current`"
        yield from fallen(self._before, FloorStore(paths.floors).load())
        yield from self._chain()
        yield from self._says_why(version)

    def _running(self, paths: Paths) -> str:
        """Return the version that `current` resolves to."""
        manifest = paths.current(APP) / "manifest.json"
        return parse_manifest(manifest.read_bytes()).version if manifest.exists() else ""

    def _was_told(self) -> bool:
        return any(one.kind == ReceiptKind.SOAKED for one in self._about_it())

    def _about_it(self) -> list[Receipt]:
        assert self._plan is not None
        plan = sha256_hex(write(self._plan))
        return [one for one in self._bench.told() if one.plan.hex() == plan]

    def _says_why(self, version: str) -> Iterator[str]:
        """An install that had no room says so in its receipt; without a first record it is none."""
        told = self._about_it()[-1:]
        if self.why != "no-space" or (not told and version != self._new):
            return
        ended = (Outcome.OK, Outcome.ROLLED_BACK)
        # Where even the ballast gives nothing back, the record of why is lost: an interruption.
        is_kept = self.gives_back and not self._hook_took
        reasons = (Reason.NO_SPACE,) if is_kept else (Reason.NO_SPACE, Reason.POWER)
        if not told or (told[0].outcome not in ended and told[0].reason not in reasons):
            yield f"it had no room, and says {told[0].reason.name if told else 'nothing'}"

    def _chain(self) -> Iterator[str]:
        posted = self._bench.acceptor._ground.receipts.outbox.pending(100)
        told = self._bench.told()
        if [one.rseq for one in told] != list(range(1, len(told) + 1)):
            yield f"receipts are numbered {[one.rseq for one in told]}"
        for before, after in zip(posted, told[1:], strict=False):
            if after.previous != chain_hash(before.signed):
                yield f"receipt {after.rseq} does not name the one before"
        soaked = [one.plan for one in told if one.kind == ReceiptKind.SOAKED]
        if len(soaked) != len(set(soaked)):
            yield "I5: one success is told twice"

    def _next_installs(self, paths: Paths) -> Iterator[str]:
        assert self._next is not None
        # Blobs that came a moment ago are kept for the next try; an hour later they are not.
        self._bench.clock.ahead = timedelta(hours=2)
        answer = self._bench.acceptor._installer.act(
            APP, self._next, self._later, Told(), nonce="0" * 32, confirm=None
        )
        if answer.kind != "committed" or self._running(paths) != _NEXT:
            yield f"the next release: {answer.kind} {answer.reason}, {self._running(paths)} runs"
            return
        yield from leftovers(paths)
        self._bench.clock.ahead = timedelta()


def fallen(before: Floors, after: Floors) -> Iterator[str]:
    """Yield every number of the floors that is lower than it was (I7)."""
    if after.time < before.time:
        yield "I7: the time floor fell"
    for key, number in before.oseq.items():
        if after.oseq.get(key, 0) < number:
            yield f"I7: oseq of {key[:8]} fell"
    for app, floor in before.apps.items():
        new = after.app(app)
        for name in ("seen_seq", "gate_seq", "gseq"):
            if getattr(new, name) < getattr(floor, name):
                yield f"I7: {name} of {app} fell"
        for plan, tries in floor.tries.items():
            if new.tries.get(plan, 0) < tries:
                yield f"I7: tries of {plan[:8]} fell"


def leftovers(paths: Paths) -> Iterator[str]:
    """Yield what a finished install must not leave: staging, temporary files, old content (I6)."""
    for top in (paths.data, paths.opt):
        for folder, inner, files in os.walk(top):
            for name in (*inner, *files):
                if _UNFINISHED.fullmatch(name):
                    yield f"I6: {Path(folder, name).relative_to(paths.prefix)} is left"
    names = [path.name for path in paths.releases(APP).iterdir()]
    if len(names) > 3:
        yield f"I6: {len(names)} releases are kept"
    live = live_blobs(paths, APP)
    held = {path.name for path in paths.blobs.rglob("*") if path.is_file()}
    twins = {f"{digest}{TWIN}" for digest in live}
    if not live <= held <= live | twins:
        yield f"I6: {len(held - live - twins)} blobs too many, {len(live - held)} too few"
    if left := [path.name for path in (paths.blobs / PARTIAL).iterdir()]:
        yield f"I6: {left} are left of what was to come"


HOOK = Hook(point="prepare", argv=("sh", "-c", ":"), timeout_s=10)


def hook(point: str, script: str = ":") -> Hook:
    """Return a hook that is a line of shell."""
    return msgspec.structs.replace(HOOK, point=point, argv=("sh", "-c", script))


def install_scenes(root: Path) -> list[InstallScene]:
    """Return every install that is swept whole."""
    four = ("1.0", "2.0", "3.0", "4.0")
    return [
        InstallScene(root, "first"),
        InstallScene(root, "first_crash", mode="crash"),
        InstallScene(root, "upgrade", held=four[:1]),
        InstallScene(root, "rollback", held=four[:1], mode="crash"),
        InstallScene(root, "collect", held=four, owned=True),
        InstallScene(root, "packed", more=limits.PACK_LEAST_BLOBS, owned=True),
    ]


def hook_scenes(root: Path) -> list[InstallScene]:
    """Return installs whose hooks are real programs: dear, so a part of their cases is swept."""
    changed = f'"$EMBRASURE_SHARED/{MIGRATED}"'
    back = [hook("migrate", f"touch {changed}"), hook("revert", f"rm -f {changed}")]
    forward = [*(hook(point) for point in ("check", "prepare", "finish")), *back]
    return [
        InstallScene(root, "hooks", held=("1.0",), hooks=forward),
        InstallScene(
            root, "revert", held=("1.0",), hooks=back, mode="crash"
        ),
    ]  # fmt: skip
