"""Nonces and sources against models that keep everything; the statement against any bytes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from embrasure import limits
from embrasure.errors import EmbrasureError, Refused, Unavailable
from embrasure.net.source import source_of
from embrasure.trust.documents import write
from embrasure.trust.login import LoginStatement, parse_login
from gateway.login_guard import Nonces, Sources

HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
STATEMENTS = st.builds(
    LoginStatement,
    v=st.just(1),
    type=st.just("login"),
    root=HEX,
    person=st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True),
    nonce=HEX,
    csr=HEX,
    admin=HEX,
    at=st.just("2026-11-27T00:00:00Z"),
)


@given(STATEMENTS)
def test_a_statement_reads_back_as_it_was_written(said: LoginStatement) -> None:
    assert parse_login(write(said)) == said


@given(st.binary(max_size=300) | STATEMENTS.map(write).map(lambda raw: raw[:-1] + b" }"))
def test_any_other_bytes_are_refused(raw: bytes) -> None:
    try:
        parse_login(raw)
    except Refused:
        return
    raise AssertionError(raw)


@given(st.text(max_size=60))
def test_any_name_of_a_peer_gives_some_source(peer: str) -> None:
    assert isinstance(source_of(peer), str)


class NonceMachine(RuleBasedStateMachine):
    """Nonces that come, wait and are taken, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.nonces = Nonces(lambda: self.time)
        self.made: list[tuple[bytes, float]] = []
        self.taken: set[bytes] = set()

    @rule()
    def ask(self) -> None:
        self.made.append((self.nonces.fresh(), self.time))

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.time += seconds

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        if not self.made:
            return
        nonce, at = data.draw(st.sampled_from(self.made))
        age = self.time - at
        try:
            self.nonces.take(nonce)
        except Refused:
            # Up to a millisecond is rounded in the nonce's favour.
            assert nonce in self.taken or age > limits.LOGIN_SECONDS - 0.01
        else:
            assert nonce not in self.taken and age < limits.LOGIN_SECONDS + 0.01
            self.taken.add(nonce)

    @rule(raw=st.binary(max_size=40))
    def invent(self, raw: bytes) -> None:
        try:
            self.nonces.take(raw)
        except Refused:
            return
        raise AssertionError(raw)

    @invariant()
    def remembers_only_what_could_still_be_used(self) -> None:
        assert len(self.nonces._taken) <= len(self.taken)


class SourceMachine(RuleBasedStateMachine):
    """Three sources that fail and succeed; the model keeps every failure."""

    NAMES = st.sampled_from(["a", "b", "c"])

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.sources = Sources(lambda: self.time)
        self.failed: dict[str, list[float]] = {name: [] for name in "abc"}
        self.until: dict[str, float] = dict.fromkeys("abc", 0.0)

    @rule(seconds=st.sampled_from([0.1, 5.0, 20.0, 61.0, 901.0]))
    def wait(self, seconds: float) -> None:
        self.time += seconds

    def _may(self, name: str) -> bool:
        return self.time >= self.until[name]

    @rule(name=NAMES)
    def fail(self, name: str) -> None:
        may = self._may(name)
        try:
            with self.sources.attempt(name):
                raise Refused("x", expected="y", got="z")
        except Unavailable:
            assert not may
        except EmbrasureError:
            assert may
            recent = [at for at in self.failed[name] if at > self.time - 60] + [self.time]
            self.failed[name] = recent
            if len(recent) >= limits.LOGIN_FAILURES:
                self.until[name] = self.time + limits.LOGIN_PAUSE_SECONDS

    @rule(name=NAMES)
    def succeed(self, name: str) -> None:
        may = self._may(name)
        try:
            with self.sources.attempt(name):
                pass
        except Unavailable:
            assert not may
        else:
            assert may
            self.failed[name].clear()


TestNonces = NonceMachine.TestCase
TestNonces.settings = settings(max_examples=30, stateful_step_count=30)
TestSources = SourceMachine.TestCase
TestSources.settings = settings(max_examples=40, stateful_step_count=40)
