"""Damages one state file of a node, whichever there is, and looks at what the node then does.

The files are found on a node that has worked, not listed: a new one cannot be forgotten.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from embrasure.errors import EmbrasureError
from embrasure.trust.documents import write
from embrasure.trust.floors import Floors, FloorStore
from embrasure.trust.folder import FolderSource
from embrasure.trust.source import Source
from node import hold, mending, pins
from node.apply_main import mend
from node.paths import Paths
from node.receipts import Outbox
from node.serving import stand
from tests.simulate.installer import Confirms, SimInstaller
from tests.simulate.promises import check_floors, check_link
from tests.simulate.sweep_install import small

# Written anew at every start, or holding nothing; a release and its blobs are `verify`'s matter.
_NO_STATE = frozenset({"releases", ".blobs", "logs", "lock", "run", "ballast", "shared"})
Harm = Callable[[Path], None]


@dataclass(frozen=True)
class Damage:
    """One file and what is done to it."""

    file: Path
    name: str
    harm: Harm = field(compare=False)

    def __str__(self) -> str:
        return f"{self.name} {self.file}"


@dataclass
class Outcome:
    """What the node did. opened, old, new: the answer, or the word of the error; healed: what it
    said to the new release once more after the repair that the documentation tells, if it had to.
    """

    opened: str = ""
    ran: str = ""
    old: str = ""
    new: str = ""
    runs: str = ""
    healed: str = ""
    numbers: tuple[int, ...] = ()


class Patient:
    """A push node that has installed twice and obeyed an order; a third release is approved."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bench = SimInstaller(root, mode="push", inner=True)
        self.approved: set[str] = set()
        self.bench.report = Confirms(self.bench)
        self._publish("1.0")
        assert self.bench.poll() == "committed"
        self.bench.repo.write(root / "old")
        self._publish("2.0")
        self.order = self.bench.order(oseq=50)  # above the confirmations
        assert self._obey() == "committed"
        self.told = self.bench.told()[-1].rseq
        self._leave_files()
        self.bench.close()
        self.base = self.bench.paths.prefix
        self.floors: Floors = FloorStore(self.bench.paths.floors).load()
        self._before = (self.bench.acceptor, self.bench.supervisor)
        self._publish("3.0")

    def _leave_files(self) -> None:
        """What a node gets that joins, is held for a while, pinned, and started as a whole."""
        paths = self.bench.paths
        mend(paths, stand(paths))
        over = hold.Hold(app=self.bench.app, since=1, until=2, reason="long over")
        paths.holds.write_bytes(write(hold.Holds(v=1, holds=(over,))))
        pins.put(paths, self.bench.app, pins.there(paths, self.bench.app)[0])
        Outbox(paths).acknowledge(1)
        for path in (paths.statement, paths.join, paths.gateway_issuer, paths.renewed):
            path.write_bytes(b"{}")  # nothing that apply's start looks at

    def _publish(self, version: str) -> None:
        plan = self.bench.publish(version, release=small(self.bench, version))
        self.approved.add(plan.manifest.sha256)

    def _obey(self) -> str:
        answer = self.bench.acceptor.order(self.order, self.bench.source(), self.bench.report)
        return f"{answer.kind} {answer.reason}".strip()

    def files(self) -> list[Path]:
        """Return every state file there is, relative to the node's folder."""
        found = (path.relative_to(self.base) for path in sorted(self.base.rglob("*")))
        return [
            path for path in found
            if not _NO_STATE & set(path.parts)
            and ((self.base / path).is_file() or (self.base / path).is_symlink())
        ]  # fmt: skip

    def damages(self, *, flips: int) -> Iterator[Damage]:
        """Yield each way of damaging each file. flips: most bits flipped in one file, one by one"""
        chosen = random.Random(0)  # noqa: S311  # a choice of cases, no secret
        for file in self.files():
            yield Damage(file, "delete", Path.unlink)
            if (self.base / file).is_symlink():
                continue
            size = (self.base / file).stat().st_size
            yield Damage(file, "a folder in its place", _fold)
            yield Damage(file, "zeroed", _zero)
            for length in sorted({0, 1, size // 2, size - 1} & set(range(size))):
                yield Damage(file, f"cut to {length}", _cut(length))
            offsets = range(size) if size <= flips else sorted(chosen.sample(range(size), flips))
            for at in offsets:
                yield Damage(file, f"flip a bit of byte {at}", _flip(at, chosen.randrange(8)))

    def sample(self) -> Iterator[Damage]:
        """Yield one damage of each file, another kind from file to file."""
        chosen = random.Random(1)  # noqa: S311  # a choice of cases, no secret
        every = list(self.damages(flips=2))
        for number, file in enumerate(self.files()):
            mine = [one for one in every if one.file == file]
            # Each way in turn; a folder in the place of a file is the one that is forgotten.
            yield mine[number % 3] if len(mine) > 2 and number % 2 else chosen.choice(mine)

    def suffer(self, damage: Damage) -> Outcome:
        """Return what the node does with the damaged file; raises AssertionError when anything
        runs that was not approved, a floor fell, or an error is not one of ours.
        """
        where, bench = self.root / "case", self.bench
        shutil.copytree(self.base, where, symlinks=True)
        bench.paths, bench.report = Paths(where), Confirms(bench)
        bench.clock.ahead = timedelta()
        found = Outcome()
        try:
            damage.harm(where / damage.file)
            check_link(bench.paths, bench.app, self.approved)
            found.opened = _said(self._open)
            if not found.opened.startswith("refused"):
                self._look(found)
            if found.new != "committed":
                found.healed = self._repaired(where, damage.file)
            check_link(bench.paths, bench.app, self.approved)
            self._check_floors()
        finally:
            self._close()
            _remove(where)
        return found

    def _repaired(self, where: Path, file: Path) -> str:
        """Return what becomes of the new release after `node mend`, and else the backup."""
        self._close()
        mending.mend(self.bench.paths)
        if file.suffix != ".toml":
            if (where / file).is_dir():
                _remove(where / file)
            (where / file).parent.mkdir(parents=True, exist_ok=True)
            if (self.base / file).is_dir():
                shutil.copytree(self.base / file, where / file, symlinks=True)
            else:
                (where / file).unlink(missing_ok=True)
                shutil.copy2(self.base / file, where / file, follow_symlinks=False)
        assert self._open() == "open"
        return _said(lambda: self._poll(self.bench.source()))

    def _open(self) -> str:
        """As apply's start: what has a second copy is mended, and the node works or only serves."""
        bench = self.bench
        standing = stand(bench.paths)
        bench.open(standing)
        mend(bench.paths, standing)
        return "serves" if standing.trouble else "open"

    def _look(self, found: Outcome) -> None:
        bench = self.bench
        found.ran = bench.ask()
        found.old = _said(lambda: self._poll(FolderSource(self.root / "old")))
        found.new = _said(lambda: self._poll(bench.source()))
        # The order that was obeyed before is never obeyed again.
        assert _said(self._obey) != "committed", "an old order was obeyed twice"
        found.runs = bench.ask()
        posted = Outbox(bench.paths).pending(100)
        found.numbers = tuple(one.rseq for one in posted if one.rseq > self.told)

    def _poll(self, source: Source) -> str:
        found = self.bench.acceptor.poll(source, self.bench.report)
        return f"{found[0].kind} {found[0].reason}".strip() if found else "refused none"

    def _check_floors(self) -> None:
        try:
            after = FloorStore(self.bench.paths.floors).load(repair=False)
        except EmbrasureError:
            return  # lost as a whole: refused, never lower
        check_floors(self.floors, after)

    def _close(self) -> None:
        """What was opened for this case, whole or not, is closed."""
        bench = self.bench
        if bench.acceptor is not self._before[0]:
            bench.acceptor.close()
        if bench.supervisor is not self._before[1]:
            bench.supervisor.close()
        self._before = (bench.acceptor, bench.supervisor)


def _said(act: Callable[[], str]) -> str:
    try:
        return act()
    except EmbrasureError as problem:
        assert problem.thing, problem
        assert problem.got or problem.expected, problem
        return f"refused {problem.reason}"


def _cut(length: int) -> Harm:
    def cut(path: Path) -> None:
        path.chmod(0o600 | path.stat().st_mode)
        with path.open("r+b") as file:
            file.truncate(length)

    return cut


def _flip(at: int, bit: int) -> Harm:
    def flip(path: Path) -> None:
        raw = bytearray(path.read_bytes())
        raw[at] ^= 1 << bit
        path.write_bytes(raw)

    return flip


def _fold(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def lose(path: Path) -> None:
    """A whole folder is gone."""
    _remove(path)


def _remove(where: Path) -> None:
    for path in where.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(where)
