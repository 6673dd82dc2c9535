"""The quick reader takes what the close look takes, and never more."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.bundle import paths
from embrasure.bundle.manifest import Manifest
from embrasure.errors import Refused
from embrasure.trust import documents
from embrasure.trust.canonical import canonical, parse
from embrasure.trust.documents import Document, Labels, Time, convert, read
from embrasure.trust.plain import read_plain
from tests.ablation import Ablation
from tests.simulate.releases import make_release


class Inner(Document, frozen=True, kw_only=True):
    on: bool | None
    many: tuple[int, ...]


class Paper(Document, frozen=True, kw_only=True):
    count: int
    labels: dict[str, str]
    marks: Labels
    parts: tuple[Inner, ...]
    text: str


class Open(Document, frozen=True, kw_only=True):
    """As the two copies of floors are."""

    count: int
    rest: dict[str, object]


class Dated(Document, frozen=True, kw_only=True):
    until: Time


PAPER = Paper(
    count=7, labels={"a": "b"}, marks={"k": "v"}, text="some words",
    parts=(Inner(on=True, many=(1, -2)), Inner(on=None, many=())),
)  # fmt: skip
DATED = Dated(until="2026-02-28T00:00:00Z")
RELEASE = make_release("shop", {"code/main": b"x", "config/a-b.toml": b""}).manifest
SAMPLES = [documents.write(PAPER), documents.write(DATED), documents.write(RELEASE)]
PIECES = [
    *(b"1", b"1.0", b"1e3", b"-0", b"00", b"9007199254740991", b"9007199254740992", b"NaN"),
    *(b'"', b"\\", b"\\u0041", b"\n", b" ", b"\x7f", b"\x00", "é".encode(), b"\xff"),
    *(b"null", b"true", b"{}", b"[]", b'"a":"b"', b'"a":"b",', b'"":"b"', b'"count":7,', b'"x":1,'),
    *(b",", b":", b'"' + b"n" * 129 + b'":"v"'),
    *(b"2026-02-30T00:00:00Z", b"2026-02-28T00:00:00Z", b'"2026-02-30T00:00:00Z"'),
]
CHANGES = st.tuples(
    st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=3)
)


def shape_of(raw: bytes) -> type[Document]:
    if b'"manifest"' in raw:
        return Manifest
    return Dated if b'"until"' in raw else Paper


def closely(raw: bytes, shape: type[Document]) -> Document | None:
    """Return what the close look makes of the bytes, None when it refuses them."""
    try:
        return convert(parse(raw, limit=1 << 20, document="test"), shape, "test")
    except Refused:
        return None


def quickly(raw: bytes, shape: type[Document]) -> Document | None:
    return read_plain(raw, shape, apart=documents.DATED)


@given(
    st.sampled_from(SAMPLES),
    st.lists(CHANGES, max_size=3),
)
def test_whatever_is_taken_quickly_is_taken_closely_and_is_the_same(
    raw: bytes, changes: list[tuple[float, int, bytes]]
) -> None:
    shape = shape_of(raw)
    for place, gone, new in changes:
        at = int(place * len(raw))
        raw = raw[:at] + new + raw[at + gone :]
    found = quickly(raw, shape)
    assert found is None or found == closely(raw, shape)


NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F), max_size=140)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {
            "count": st.integers(-(2**60), 2**60) | VALUES,
            "labels": st.dictionaries(NAMES, NAMES, max_size=3),
            "marks": st.dictionaries(st.sampled_from(["k", "K", ""]), st.just("v"), max_size=2),
            "parts": st.just([]) | VALUES,
            "text": NAMES,
        }
    )
)
def test_any_paper_is_read_alike(value: dict[str, object]) -> None:
    raw = canonical(value)
    found = quickly(raw, Paper)
    assert found is None or found == closely(raw, Paper)


def test_the_usual_document_is_read_quickly() -> None:
    for raw in (SAMPLES[0], SAMPLES[2]):
        assert quickly(raw, shape_of(raw)) == closely(raw, shape_of(raw)) is not None


NOT_PLAIN = {
    "a date": SAMPLES[1],
    "an escape": documents.write(msgspec.structs.replace(PAPER, text='a "word"')),
    "another script": documents.write(msgspec.structs.replace(PAPER, text="é")),
    "a large number": documents.write(msgspec.structs.replace(PAPER, count=limits.MAX_INTEGER)),
}


@pytest.mark.parametrize("raw", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_what_is_not_plain_is_looked_at_closely_and_read(raw: bytes) -> None:
    assert quickly(raw, shape_of(raw)) is None
    assert documents.write(read(raw, shape_of(raw), limit=10_000, document="test")) == raw


def test_a_document_beyond_its_limit_is_refused_however_plain() -> None:
    with pytest.raises(Refused) as caught:
        read(SAMPLES[0], Paper, limit=len(SAMPLES[0]) - 1, document="test")
    assert caught.value.reason == "limit"


def worse(change: Iterable[tuple[bytes, bytes]]) -> bytes:
    raw = SAMPLES[0]
    for old, new in change:
        assert old in raw
        raw = raw.replace(old, new)
    return raw


FORM, NAMES_FIT = "_comes_out_again", "_are_names_fit"
SPELLED = {
    "spaces": (FORM, worse([(b":7,", b": 7,")])),
    "twice": (FORM, worse([(b'"count":7,', b'"count":7,"count":7,')])),
    "order": (FORM, worse([(b'{"many":[1,-2],"on":true}', b'{"on":true,"many":[1,-2]}')])),
    "no name": (NAMES_FIT, worse([(b'"a":"b"', b'"":"b"')])),
    "a long name": (NAMES_FIT, worse([(b'"a":"b"', b'"' + b"n" * 129 + b'":"b"')])),
}


@pytest.mark.misuse
@pytest.mark.parametrize(("guard", "raw"), SPELLED.values(), ids=SPELLED.keys())
def test_what_has_not_the_one_form_is_refused(guard: str, raw: bytes, ablation: Ablation) -> None:
    assert quickly(raw, Paper) is None
    with pytest.raises(Refused):
        read(raw, Paper, limit=10_000, document="test")
    with ablation(guard) as attack:
        attack.without(f"embrasure.trust.plain.{guard}", lambda *_: True)
        attack.succeeded(read(raw, Paper, limit=10_000, document="test").count == 7)


@pytest.mark.misuse
def test_a_number_that_not_every_reader_reads_alike_is_refused(ablation: Ablation) -> None:
    raw = worse([(b":7,", b":9007199254740992,")])
    with pytest.raises(Refused):
        read(raw, Paper, limit=10_000, document="test")
    with ablation("the look at numbers") as attack:
        attack.without("embrasure.trust.plain._UNUSUAL", re.compile(rb"(?!)"))
        attack.succeeded(read(raw, Paper, limit=10_000, document="test").count > limits.MAX_INTEGER)


@pytest.mark.misuse
@pytest.mark.parametrize("levels", [13, 300, 50_000])
def test_a_document_that_nests_deeply_is_refused(levels: int, ablation: Ablation) -> None:
    raw = b'{"count":7,"rest":{"a":' + b"[" * levels + b"]" * levels + b"}}"
    assert quickly(raw, Open) is None
    with pytest.raises(Refused):
        read(raw, Open, limit=1 << 20, document="test")
    with ablation("the depth of a document") as attack:
        attack.without("embrasure.trust.plain.nests_little", lambda _: True)
        if levels < 1000:
            attack.succeeded(read(raw, Open, limit=1 << 20, document="test").count == 7)
        else:
            with pytest.raises(RecursionError):
                read(raw, Open, limit=1 << 20, document="test")
            attack.succeeded(True)


@given(
    st.recursive(
        st.none() | st.integers(0, 9) | st.just("a"),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("b"), inner),
        max_leaves=30,
    )
)
def test_an_open_member_is_read_alike(value: object) -> None:
    raw = canonical({"count": 7, "rest": {"a": value}})
    assert quickly(raw, Open) in (None, closely(raw, Open))


@pytest.mark.misuse
def test_a_date_that_no_calendar_has_is_refused(ablation: Ablation) -> None:
    raw = SAMPLES[1].replace(b"02-28", b"02-30")
    with pytest.raises(Refused):
        read(raw, Dated, limit=10_000, document="test")
    with ablation("the members that are looked at closely") as attack:
        attack.without("embrasure.trust.documents.DATED", frozenset())
        attack.succeeded(read(raw, Dated, limit=10_000, document="test").until)


@given(
    st.lists(
        st.text(st.sampled_from("aA9_.-+@= \\é\x7f"), max_size=5)
        | st.sampled_from(["..", "n" * 256]),
        max_size=40,
    ),
    st.sampled_from(["code", "config", "codex", "", "/code"]),
)  # fmt: skip
def test_a_plain_path_is_one_that_the_close_look_takes(parts: list[str], top: str) -> None:
    path = "/".join([top, *parts])
    if paths._PLAIN.fullmatch(path) and len(path) <= limits.PATH_BYTES:
        before, paths._PLAIN = paths._PLAIN, re.compile("(?!)")
        try:
            assert paths.check_path(path) == (top, *parts)
        finally:
            paths._PLAIN = before
