"""What a prober is asked and what it reads, as `json` and `re` would do it, without them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.prober import read_question, release_of, status_of, write_question
from node.probing import _sentence

STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r\n")
RELEASE = re.compile(rb"\r\nembrasure-release:[ \t]*([0-9a-f]{16})[ \t]*\r\n", re.IGNORECASE)
PARTS = [
    b"HTTP/1.1", b"HTTP/1.0", b" ", b"\t", b"\r\n", b"\r", b"\n", b":", b"200", b"20", b"OK",
    b"Embrasure-Release", b"embrasure-release", b"ab" * 8, b"AB" * 8, b"x", b"\0", b"\xb2",
]  # fmt: skip
LINES = [
    b"HTTP/1.1 200 OK", b"HTTP/1.0 503", b"HTTP/2 200", b"Embrasure-Release: " + b"ab" * 8,
    b"embrasure-release:\t" + b"CD" * 8 + b" ", b"x: embrasure-release:" + b"ab" * 8, b"",
]  # fmt: skip
HEADS = st.one_of(
    st.lists(st.sampled_from(PARTS), max_size=12).map(b"".join),
    st.lists(st.sampled_from(LINES), max_size=6).map(b"\r\n".join),
    st.binary(max_size=60),
)


@given(head=HEADS)
def test_an_answer_is_read_as_a_pattern_would(head: bytes) -> None:
    head += b"\r\n\r\n"  # a prober reads until there is one
    found = STATUS.match(head)
    assert status_of(head) == (None if found is None else int(found[1]))
    named = RELEASE.search(head[: head.index(b"\r\n\r\n") + 2])
    assert release_of(head) == ("" if named is None else named[1].decode().lower())


TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\t\n"), max_size=20)
VALUE = st.one_of(st.integers(), st.floats(allow_nan=False), TEXT)
NAME = st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(lambda name: name != "members")


@given(asked=st.dictionaries(NAME, VALUE, max_size=6), members=st.lists(st.integers(1), max_size=5))
def test_a_question_arrives_as_it_was_asked(asked: dict[str, Any], members: list[int]) -> None:
    line = write_question({**asked, "members": members})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    read = read_question(line)
    assert read.pop("members") == members
    assert read == {name: str(value) for name, value in asked.items()}


@pytest.mark.parametrize("text", ["a\tpath=/other", "a\nkind=tcp"])
def test_a_text_that_would_be_two_is_not_asked(text: str) -> None:
    with pytest.raises(ValueError, match="tab"):
        write_question({"kind": "file-age", "path": text})


def test_an_answer_is_a_sentence() -> None:
    assert _sentence(b"\n") == ""
    assert _sentence(b"port web: " + b"x" * 400 + b"\n") == "port web: " + "x" * 290
    for line in (b"\x1b[2J\n", b"\xff\n", b"one\rtwo\n", b"one\ntwo\n"):
        with pytest.raises(ValueError):  # of two kinds
            _sentence(line)
