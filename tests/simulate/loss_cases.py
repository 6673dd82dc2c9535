"""Runs the node's own recovery on states of the model of lost writes (`loss.py`)."""

from __future__ import annotations

import gc
import json
import os
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embrasure import fsops
from embrasure.trust.canonical import sha256_hex
from node.receipts import Outbox
from tests.simulate.installer import Told
from tests.simulate.loss import Crash, Event, Recorder, crashes
from tests.simulate.promises import check_link
from tests.simulate.sweep import Place
from tests.simulate.sweep_install import APP, InstallScene
from tests.simulate.trees import remove, room

Keep = Callable[[Event, Recorder], bool]


class Tells(Told):
    """A report that notes when each receipt was handed out."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def receipt(self, signed: bytes, body: bytes) -> None:
        self._recorder.receipt(signed)


def every_sync(event: Event, recorder: Recorder) -> bool:
    """Keep all."""
    return True


def no_data_sync(event: Event, recorder: Recorder) -> bool:
    """Protocol B: names and small files are synced, the files of a release are not."""
    return event.call != "syncfs"


def no_name_sync(event: Event, recorder: Recorder) -> bool:
    """Protocol C: files are synced, no folder is."""
    is_folder = event.node is not None and recorder.inodes[event.node].kind == "folder"
    return not (event.is_sync and is_folder)


class LossPlace(Place):
    """One scene in one folder: its act was recorded once."""

    def __init__(self, scene: InstallScene, top: Path) -> None:
        super().__init__(scene, top)
        self.scene, self._install = scene.name, scene
        self.reset()
        with scene.opened():
            self.recorder = Recorder(self._folder)
            with fsops.watched(self.recorder):
                answer = scene.judged(Tells(self.recorder))
        if answer != scene.end:
            raise RuntimeError(f"{scene.name} without a crash: {answer}")

    def lost(self, crash: Crash) -> list[str]:
        """Return what is wrong after the crash: before anything was repaired, and afterwards."""
        self._counters.clear()
        remove(self._folder)
        crash.state.build(self._folder, self._in_base)
        paths = self._install.paths
        try:
            check_link(paths, APP, self._install.approved)
            # The next release is installed after every third: that costs as much as all the rest.
            wrong = self.recovered(further=crash.at % 3 == 0)
        except Exception as problem:
            where = traceback.extract_tb(problem.__traceback__)[-1]
            return [
                f"{type(problem).__name__}: {problem} {Path(where.filename).name}:{where.lineno}"
            ]
        here = {posted.signed for posted in Outbox(paths).pending(100)}
        gone = [sha256_hex(signed)[:8] for signed in crash.told if signed not in here]
        return wrong + [f"I2: receipt {one} was handed out, and is lost" for one in gone]

    def _in_base(self, path: Path) -> Path:
        return self._base / path.relative_to(self._folder)


def chosen(every: Sequence[Crash], points: int, seed: int) -> list[Crash]:
    """Return `points` of the states, of every prefix at least one if there is room for that."""
    dice = random.Random(seed)  # noqa: S311  # a choice of cases, no secret
    by: dict[int, list[Crash]] = {}
    for crash in every:
        by.setdefault(crash.at, []).append(crash)
    first = [dice.choice(found) for found in by.values()]
    dice.shuffle(first)
    taken = {id(crash) for crash in first}
    rest = [crash for crash in every if id(crash) not in taken]
    dice.shuffle(rest)
    return [*first, *rest][:points]


@dataclass(slots=True)
class Lost:
    """How it went. states: built and recovered; every: that the model has; prefixes: of the act;
    sampled: of them, those with too many names at stake for every part of them.
    """

    states: int = 0
    every: int = 0
    prefixes: int = 0
    sampled: int = 0
    broken: list[str] = field(default_factory=list)


def lose(
    scenes: Sequence[InstallScene], points: int, *, seed: int = 1, keep: Keep = every_sync,
    workers: int = 2,
) -> Lost:  # fmt: skip
    """Return how `points` states of each scene went, shared out among so many processes."""
    pipes = []
    for worker in range(workers):
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            _work(scenes, points, seed, keep, (worker, workers), write_end)
        os.close(write_end)
        pipes.append((child, read_end))
    lost = Lost()
    for child, read_end in pipes:
        with os.fdopen(read_end) as file:
            for line in file:
                told = json.loads(line)
                lost.states += told["states"]
                lost.every += told["every"] if told["worker"] == 0 else 0
                lost.prefixes += told["prefixes"] if told["worker"] == 0 else 0
                lost.sampled += told["sampled"] if told["worker"] == 0 else 0
                lost.broken += told["broken"]
        _, status = os.waitpid(child, 0)
        if status:
            lost.broken.append(f"a worker ended with {status}")
    return lost


def _work(
    scenes: Sequence[InstallScene], points: int, seed: int, keep: Keep, share: tuple[int, int],
    pipe: int,
) -> None:  # fmt: skip
    status, (worker, workers) = 1, share
    gc.freeze()  # what other tests of this process left is not for this child to tidy up
    try:
        with room() as top, os.fdopen(pipe, "w") as out:
            for scene in scenes:
                own = top / scene.name
                own.mkdir(parents=True)
                place = LossPlace(scene, own)
                more = 4 if points < 10_000 else 40
                every = list(crashes(place.recorder, seed=seed, more=more, keep=keep))
                mine = chosen(every, points, seed)[worker::workers]
                told = {
                    "worker": worker, "states": len(mine), "every": len(every),
                    "prefixes": len(place.recorder.events) + 1,
                    "sampled": len({crash.at for crash in every if not crash.is_whole}),
                    "broken": list(_broken(place, mine)),
                }  # fmt: skip
                out.write(json.dumps(told) + "\n")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _broken(place: LossPlace, mine: Sequence[Crash]) -> Iterator[str]:
    for crash in mine:
        wrong = place.lost(crash)
        if wrong:
            yield f"{place.scene} {crash.what}: {'; '.join(wrong)}"
