from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust import canonical as canonical_form
from embrasure.trust.canonical import canonical, check_depth, parse, written
from embrasure.trust.documents import Document, convert, may_hold_times
from tests.ablation import Ablation

LETTERS = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(LETTERS, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(LETTERS, min_size=1, max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


def refused(raw: bytes, limit: int = 10_000) -> str:
    with pytest.raises(Refused) as caught:
        parse(raw, limit=limit, document="test")
    return caught.value.reason


@given(st.dictionaries(st.text(LETTERS, min_size=1, max_size=5), VALUES, max_size=4))
def test_what_is_written_is_read_back(value: dict[str, object]) -> None:
    raw = canonical(value)
    if depth(value) <= 8:
        assert parse(raw, limit=1 << 20, document="test") == value
    else:
        assert refused(raw, 1 << 20) == "limit"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=16,
)


@given(ANYTHING)
def test_the_fast_writer_writes_the_same_bytes(value: object) -> None:
    assert written(value) == canonical(value)


def test_the_fast_writer_escapes_every_character_the_same_way() -> None:
    for start in range(0, 0x110000, 0x800):
        if start != 0xD800:  # halves of pairs: neither writes them
            text = "".join(map(chr, range(start, start + 0x800)))
            assert written(text) == canonical(text)


def test_no_document_can_hold_what_the_fast_writer_spells_another_way() -> None:
    for shape in shapes(Document):
        for field in msgspec.structs.fields(shape):
            assert not re.search(r"\b(float|bytes|set|Decimal|datetime)\b", str(field.type)), field


def test_names_that_were_looked_at_are_bounded() -> None:
    for number in range(limits.MEMBER_NAMES_KEPT + 3):
        parse(canonical({f"name{number}": 1}), limit=100, document="test")
    assert len(canonical_form._names) <= limits.MEMBER_NAMES_KEPT


class Inner(Document, frozen=True, kw_only=True):
    until: str


class Outer(Document, frozen=True, kw_only=True):
    held: dict[str, tuple[Inner | None, ...]]


class Open(Document, frozen=True, kw_only=True):
    said: dict[str, str | None]


class Plain(Document, frozen=True, kw_only=True):
    at_all: str
    many: dict[str, list[int]]
    two: tuple[int, str]
    kind: Literal["from"]


def test_only_shapes_that_can_hold_no_time_are_not_searched_for_times() -> None:
    assert all(map(may_hold_times, (Inner, Outer, Open)))
    assert not may_hold_times(Plain)
    assert may_hold_times(tuple[int, Inner]) and not may_hold_times(tuple[int, Plain])


def test_the_names_that_were_looked_at_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEMBER_NAMES_KEPT", 3)
    for number in range(10):
        name = f"never_seen_{number}"
        assert parse(canonical({name: 1}), limit=100, document="x") == {name: 1}
        assert len(canonical_form._names) <= 3
    with pytest.raises(Refused):
        convert({"held": {"x": [{"until": "2026-02-30T00:00:00Z"}]}}, Outer, "x")
    with pytest.raises(Refused):
        convert({"said": {"at": "2026-02-30T00:00:00Z"}}, Open, "x")


def shapes(top: type[Document]) -> Iterator[type[Document]]:
    for shape in top.__subclasses__():
        yield shape
        yield from shapes(shape)


@given(st.text('[]{}"\\a', max_size=80))
def test_the_quick_look_at_depth_passes_nothing_that_the_slow_one_refuses(text: str) -> None:
    raw = text.encode()
    if canonical_form._is_flat(raw):
        check_depth(raw, "x")
        deepest = found = 0
        in_text = False
        for mark in text:
            in_text ^= mark == '"'
            found += 0 if in_text else (mark in "[{") - (mark in "]}")
            deepest = max(deepest, found)
        assert deepest <= limits.JSON_DEPTH


@given(st.integers(1, limits.JSON_DEPTH * 3), st.booleans())
def test_the_quick_look_at_depth_counts_levels(levels: int, mixed: bool) -> None:
    inner, outer = ("[", "]"), ('{"a":', "}")
    pairs = [outer if mixed and level % 2 else inner for level in range(levels)]
    raw = "".join(p[0] for p in pairs) + "".join(p[1] for p in reversed(pairs))
    assert canonical_form._is_flat(raw.encode()) == (levels <= limits.JSON_DEPTH)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(item) for item in value), default=0)
    return 0


@given(st.binary(max_size=200))
def test_random_bytes_raise_only_refused(raw: bytes) -> None:
    try:
        parse(raw, limit=150, document="test")
    except Refused:
        return


@given(st.text(max_size=60))
def test_random_text_raises_only_refused(text: str) -> None:
    try:
        parse(text.encode("utf-8", errors="surrogatepass"), limit=500, document="test")
    except Refused:
        return


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":1}',  # V19: the second would win in silence
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":NaN}',
        b'{"a":9007199254740992}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1}\n',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\ud800"}',
        b"[1]",
        b'{"\xc3\xa9":1}',
        '{"a":"e\u0301"}'.encode(),
        '{"a":"\u202e"}'.encode(),
        '{"a":"\u200b"}'.encode(),
        b'{"a":"\\n"}',
        b"\xff",
        b"",
    ],
)
def test_every_other_spelling_is_refused(raw: bytes) -> None:
    assert refused(raw) == "bad-schema"


def test_the_length_is_checked_before_anything_else() -> None:
    assert refused(b"x" * 11, limit=10) == "limit"


@pytest.mark.misuse
def test_nesting_of_nine_is_refused_before_the_parser_recurses(
    ablation: Ablation,
) -> None:
    deep = b'{"a":' * 9 + b"1" + b"}" * 9
    assert refused(deep) == "limit"
    assert refused(b"[" * 100_000, limit=200_000) == "limit"
    with ablation("the depth before the parser") as attack:
        attack.without("embrasure.trust.canonical.check_depth")
        attack.succeeded(parse(deep, limit=1000, document="test") == json.loads(deep))


@pytest.mark.misuse
def test_hidden_characters_are_refused_by_the_text_rule(ablation: Ablation) -> None:
    raw = '{"a":"pay\u202egnp"}'.encode()
    assert refused(raw) == "bad-schema"
    with ablation("the rule for text") as attack:
        attack.without("embrasure.trust.canonical.check_text")
        attack.succeeded(parse(raw, limit=1000, document="test") == {"a": "pay\u202egnp"})


def test_brackets_inside_text_do_not_count_as_depth() -> None:
    value = {"a": "[[[[[[[[[[{{{{{{{{{{", "b": '"]}'}
    assert parse(canonical(value), limit=1000, document="test") == value


@pytest.mark.parametrize("inside", [b'\\"', b'"', b'a"', b"\\", b'[{"', b'\\\n"', b'"\\'])
def test_the_time_to_refuse_rises_with_the_length_and_no_faster(inside: bytes) -> None:
    # One operator may upload 16 MiB that the gateway and each approver parse: with a scanner that
    # starts again at each quote of an open string, 40 kB took 8 s, and nothing else ran meanwhile.
    raw = b'{"a":"' + inside * (200_000 // len(inside))
    began = time.process_time()
    with pytest.raises(Refused):
        parse(raw, limit=limits.MANIFEST_BYTES, document="manifest")
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "raw", [b'{"a":"[[[[[[[[["}', b'{"a":"\\"[[[[[[[[["}', b'{"a":"\\\\"}', b"[]"]
)
def test_brackets_behind_a_string_count_and_those_in_it_do_not(raw: bytes) -> None:
    check_depth(raw + b"[" * limits.JSON_DEPTH, "x")
    with pytest.raises(Refused):
        check_depth(raw + b"[" * (limits.JSON_DEPTH + 1), "x")


@pytest.mark.misuse
def test_a_scanner_that_starts_again_at_each_quote_is_what_it_would_cost(
    ablation: Ablation,
) -> None:
    def cost() -> float:
        began = time.process_time()
        check_depth(b'{"a":"' + b'\\"' * 5_000, "x")
        return time.process_time() - began

    now = cost()
    again = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
    with ablation("a scan that takes each byte once") as attack:
        attack.without("embrasure.trust.canonical._MARK", again)
        attack.succeeded(cost() > 20 * now)
