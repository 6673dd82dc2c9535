"""Scenes of the sweep: keys that change.

The fleet's (TUF roots, by refresh and by the metadata door; the enrolment answer), and the node's
own (its first keys, its renewed TLS key).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from embrasure.clock import now
from embrasure.errors import EmbrasureError
from embrasure.net.credentials import Pair
from embrasure.net.pairfile import read_pair, write_pair
from embrasure.trust import layout
from embrasure.trust.floors import Floors, FloorStore, PairStore, TufFloors
from node import leftovers as unfinished
from node.identity import create_identity, load_identity, load_seal_key, load_tls_key
from node.paths import Paths
from tests.simulate.authority import Authority
from tests.simulate.doors import given
from tests.simulate.faults import Faults
from tests.simulate.installer import SimInstaller, Told
from tests.simulate.sweep import Counters
from tests.simulate.sweep_install import fallen, leftovers, small
from tests.simulate.trees import copy_tree


class TrustScene:
    """A node whose fleet has new root keys, twice, and then a release that they vouch for.

    door: the roots come by the metadata door first. fresh: the node is not even enrolled.
    """

    def __init__(self, root: Path, name: str, *, door: bool = False, fresh: bool = False) -> None:
        self.name, self.why, self.gives_back = name, "", True
        self._door = door
        self._bench = bench = SimInstaller(root / name, inner=True)
        if not fresh:
            bench.publish(release=small(bench, "1.0"))
            assert bench.poll() == "committed"
        bench.close()
        for _ in range(2):
            keys = [CryptoSigner.generate_ed25519() for _ in bench.repo.holders]
            self._roll(keys)
        self._new, self._brought = bench.repo.frozen_source(), given(bench.repo)
        bench.publish(release=small(bench, "2.0"))
        self._later = bench.repo.frozen_source()
        self._roots = bench.repo.versions[layout.ROOT]
        self._first = bench.paths.prefix

    def _roll(self, keys: list[CryptoSigner]) -> None:
        """A new root version has other keys for itself and the online roles; both sets sign it."""
        repo = self._bench.repo
        old = repo.sign_with[layout.ROOT]
        repo.replace_keys(layout.ROOT, keys, repo.threshold)
        repo.replace_keys(layout.TIMESTAMP, [CryptoSigner.generate_ed25519()])
        repo.replace_keys(layout.SNAPSHOT, [CryptoSigner.generate_ed25519()])
        repo.sign_with[layout.ROOT] = [*old, *keys[: repo.threshold]]
        repo.publish()
        repo.sign_with[layout.ROOT] = keys[: repo.threshold]

    def enter(self, folder: Path, counters: Counters) -> Path:
        copy_tree(self._first, folder)
        bench = self._bench
        bench.paths = Paths(folder)
        self._before = FloorStore(bench.paths.floors).load(), self._tuf(bench.paths)
        base = folder.with_name("base")
        copy_tree(folder, base)
        return base

    def _tuf(self, paths: Paths) -> TufFloors:
        store = PairStore(paths.tuf / "tuf-floors", TufFloors)
        return store.load(repair=False) if store.exists() else TufFloors.first()

    def act(self, faults: Faults) -> str:
        try:
            with self.opened(), faults:
                faults.arm()
                self._take()
        except EmbrasureError as problem:
            self.why = problem.reason
            return str(problem)
        self.why = ""
        return ""

    def _take(self) -> None:
        if self._door:
            self._bench.acceptor.trust(self._brought)
        else:
            self._bench.acceptor.poll(self._new, Told())

    def serving(self) -> list[str]:
        return []

    def starts(self) -> list[str]:
        return []

    def recover(self, faults: Faults) -> None:
        with faults:
            faults.arm()
            with self.opened():
                pass

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        try:
            self._bench.open()
            yield
        finally:
            self._bench.close()

    def check(self) -> list[str]:
        return list(self._kept())

    def goes_on(self) -> list[str]:
        return list(self._next_installs())

    def _kept(self) -> Iterator[str]:
        paths = self._bench.paths
        floors, tuf = self._before
        yield from fallen(floors, FloorStore(paths.floors).load())
        yield from _fallen_roles(tuf, self._tuf(paths))

    def _next_installs(self) -> Iterator[str]:
        """The next honest release installs, and the newest root is the one that is trusted."""
        bench, paths = self._bench, self._bench.paths
        self._take()
        answers = bench.acceptor.poll(self._later, Told())
        if answers[0].kind != "committed":
            yield f"the next release: {answers[0].kind} {answers[0].reason}"
            return
        if self._tuf(paths).versions.get(layout.ROOT) != self._roots:
            yield f"root floor {self._tuf(paths).versions.get(layout.ROOT)}, not {self._roots}"
        yield from self._kept()
        yield from leftovers(paths)


def _fallen_roles(before: TufFloors, after: TufFloors) -> Iterator[str]:
    """Yield roles that are lower (I7); all but the root begin again after an online key went."""
    online = (layout.SNAPSHOT, layout.TIMESTAMP)
    reset = any(before.keys.get(role) != after.keys.get(role) for role in online)
    for role, version in before.versions.items():
        counts = role == layout.ROOT or not reset
        if counts and after.versions.get(role, 0) < version:
            yield f"I7: floor of {role} fell"
    if after.time < before.time:
        yield "I7: the time floor of the metadata fell"


class RenewalScene:
    """A listener gets a new key and chain in place of the ones that it has."""

    name, why, gives_back = "renewal", "", True

    def __init__(self) -> None:
        authority = Authority()
        self._pairs = [_pair(authority, number) for number in range(3)]

    def enter(self, folder: Path, counters: Counters) -> Path:
        self._paths = Paths(folder)
        base = folder.with_name("base")
        write_pair(Paths(base).renewed, self._pairs[0])
        return base

    def act(self, faults: Faults) -> str:
        try:
            with faults:
                faults.arm()
                write_pair(self._paths.renewed, self._pairs[1])
        except EmbrasureError as problem:
            self.why = problem.reason
            return str(problem)
        self.why = ""
        return ""

    def serving(self) -> list[str]:
        return []

    def starts(self) -> list[str]:
        return []

    def recover(self, faults: Faults) -> None:
        with faults:
            faults.arm()
            unfinished.clear_own(self._paths)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        yield

    def check(self) -> list[str]:
        wrong = []
        if read_pair(self._paths.renewed) not in self._pairs[:2]:
            wrong.append("neither the old nor the new pair is there, whole")
        return wrong

    def goes_on(self) -> list[str]:
        wrong = []
        write_pair(self._paths.renewed, self._pairs[2])
        if read_pair(self._paths.renewed) != self._pairs[2]:
            wrong.append("the next renewal is not there")
        left = [path.name for path in self._paths.tls.iterdir()]
        return [*wrong, *([f"I6: {left} are left"] if len(left) != 1 else [])]


def _pair(authority: Authority, number: int) -> Pair:
    found = authority.leaf("node", f"n{number}")
    return Pair(found.key_pem, found.chain_pem)


class FirstKeysScene:
    """A node makes its keys: TLS, seal, receipts, and its first floors."""

    name, why, gives_back = "first_keys", "", True

    def enter(self, folder: Path, counters: Counters) -> Path:
        self._paths = Paths(folder)
        base = folder.with_name("base")
        base.mkdir()
        return base

    def act(self, faults: Faults) -> str:
        try:
            with faults:
                faults.arm()
                self._make()
        except EmbrasureError as problem:
            self.why = problem.reason
            return str(problem)
        self.why = ""
        return ""

    def _make(self) -> None:
        create_identity(
            self._paths, node="n-" + "a" * 26, env="prod", mode="push", domain="sim.test",
            root_id="0" * 64, clock=now,
        )  # fmt: skip

    def serving(self) -> list[str]:
        return []

    def starts(self) -> list[str]:
        return []

    def recover(self, faults: Faults) -> None:
        """Nothing but a second making recovers half-made keys."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        yield

    def check(self) -> list[str]:
        if self._is_whole():
            return [] if FloorStore(self._paths.floors).load() == Floors.first() else ["no floors"]
        for path in self._paths.keys.glob("*") if self._paths.keys.exists() else ():
            if path.stat().st_mode & 0o077:
                return [f"{path.name} may be read by others"]
        return []

    def goes_on(self) -> list[str]:
        if not self._is_whole():
            self._make()
        return [] if self._is_whole() else ["keys made anew are not whole"]

    def _is_whole(self) -> bool:
        """Return whether there is a node; then every key of it must be there."""
        if not self._paths.identity.exists():
            return False
        identity = load_identity(self._paths)
        load_seal_key(self._paths)
        return bool(load_tls_key(self._paths) and identity.boot_cert_pem)


def key_scenes(root: Path) -> list[TrustScene | RenewalScene | FirstKeysScene]:
    """Return every change of keys that is swept whole."""
    make: Callable[..., TrustScene] = TrustScene
    return [
        make(root, "root"), make(root, "door", door=True), make(root, "enrolment", fresh=True),
        RenewalScene(), FirstKeysScene(),
    ]  # fmt: skip
