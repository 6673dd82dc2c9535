"""A client through a random life: an honest source always works, an old one never wins."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from securesystemslib.signer import CryptoSigner

from embrasure.errors import EmbrasureError
from embrasure.trust.client import TrustClient
from tests.simulate.repository import SimRepository
from tests.simulate.sources import BrokenSource, MemorySource

ROLES = ("fleet-dev", "revocations", "gates-dev")
CACHED = ("timestamp", "snapshot", "targets", "fleet-dev", "gates-dev", "revocations")


class ClientLife(RuleBasedStateMachine):
    """The repository publishes, rotates keys; the disk loses files; mirrors lie."""

    def __init__(self) -> None:
        super().__init__()
        self.at = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
        self.repo = SimRepository(clock=lambda: self.at)
        self.home = tempfile.TemporaryDirectory()
        self.folder = Path(self.home.name) / "tuf"
        self.past: list[tuple[int, MemorySource]] = []  # key era, repository of then
        self.era = 0
        self.seen = 0  # timestamp version verified in this era
        self.root = 0

    def client(self) -> TrustClient:
        return TrustClient(self.folder, self.repo.anchor, clock=lambda: self.at)

    @rule(role=st.sampled_from(("root", "targets", *ROLES)))
    def publish(self, role: str) -> None:
        self.past.append((self.era, self.repo.frozen_source()))
        self.repo.touch(role)
        self.repo.publish()

    @rule(role=st.sampled_from(("timestamp", "snapshot", "gates-dev")), low=st.booleans())
    def rotate(self, role: str, low: bool) -> None:
        self.past.append((self.era, self.repo.frozen_source()))
        for name in {role, "timestamp", "snapshot"}:
            self.repo.replace_keys(name, [CryptoSigner.generate_ed25519()])
        self.era += 1
        self.seen = 0
        if low:
            self.repo.versions["timestamp"] = self.repo.versions["snapshot"] = 0
        self.repo.publish()

    @rule(hours=st.integers(1, 20))
    def wait(self, hours: int) -> None:
        self.at += timedelta(hours=hours)
        self.repo.touch("gates-dev", "revocations", "targets")
        self.repo.publish()

    @rule()
    def refresh(self) -> None:
        view = self.client().refresh(self.repo.source(), roles=ROLES)
        assert set(view.roles) >= set(ROLES)
        assert view.roles["timestamp"].version == self.repo.versions["timestamp"]
        assert view.roles["root"].version == self.repo.versions["root"]
        self.seen, self.root = view.roles["timestamp"].version, view.roles["root"].version

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def lie(self, data: st.DataObject) -> None:
        """An old repository is refused once something newer was verified."""
        era, source = data.draw(st.sampled_from(self.past))
        old = max(int(p[9:-10]) for p in source.files if p.endswith(".root.json"))
        try:
            view = self.client().refresh(source, roles=ROLES)
        except EmbrasureError:
            return
        assert old >= self.root
        if era == self.era:
            assert view.roles["timestamp"].version >= self.seen
            self.seen = view.roles["timestamp"].version
        self.root = view.roles["root"].version

    @rule(name=st.sampled_from(CACHED), after=st.integers(0, 200))
    def cut(self, name: str, after: int) -> None:
        """The line breaks somewhere; what was verified before it stays verified."""
        version = self.repo.versions[name]
        path = (
            "metadata/timestamp.json" if name == "timestamp" else f"metadata/{version}.{name}.json"
        )
        try:
            view = self.client().refresh(BrokenSource(self.repo.source(), path, after), roles=ROLES)
        except EmbrasureError:
            return
        self.seen, self.root = view.roles["timestamp"].version, view.roles["root"].version

    @precondition(lambda self: self.root > 0)
    @rule(name=st.sampled_from(CACHED), damage=st.sampled_from([b"", b"{}", b"\0" * 9, None]))
    def damage(self, name: str, damage: bytes | None) -> None:
        path = self.folder / "current" / f"{name}.json"
        path.unlink(missing_ok=True)
        if damage is not None and path.parent.is_dir():
            path.write_bytes(damage)

    @precondition(lambda self: self.root > 0)
    @rule(name=st.sampled_from("ab"))
    def damage_floors(self, name: str) -> None:
        # One copy at a time, and the older one: the newest is what was synced last.
        copies = {n: (self.folder / "tuf-floors" / n).read_bytes() for n in ("a", "b")}
        counters = {n: int(raw[11 : raw.index(b",")]) for n, raw in copies.items() if raw}
        if len(counters) == 2:
            (self.folder / "tuf-floors" / min(counters, key=lambda n: counters[n])).write_bytes(b"")

    @precondition(lambda self: self.root > 0)
    @rule()
    def lose_the_link(self) -> None:
        (self.folder / "current").unlink()
        (self.folder / "current").symlink_to("trusted/0")

    @invariant()
    def floors_hold(self) -> None:
        if self.root:
            floors = self.client().workflow.floors().versions
            assert floors["root"] >= self.root
            assert self.seen == 0 or floors.get("timestamp", 0) >= self.seen

    def teardown(self) -> None:
        self.client().refresh(self.repo.source(), roles=ROLES)
        assert self.client().held().roles["timestamp"].version == self.repo.versions["timestamp"]
        self.home.cleanup()


TestClientLife = ClientLife.TestCase
TestClientLife.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
