"""Fingerprints for people: every byte has a word of its own, every group its place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embrasure.fingerprint import WORDS, groups, words

DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)


def test_there_is_one_plain_word_for_each_byte() -> None:
    assert len(set(WORDS)) == len(WORDS) == 256
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)


@given(DIGESTS, DIGESTS)
def test_digests_that_differ_early_have_other_words_and_groups(one: str, two: str) -> None:
    assert (words(one) == words(two)) == (one[:16] == two[:16])
    assert (groups(one) == groups(two)) == (one[:32] == two[:32])


def test_the_words_of_a_known_digest_never_change() -> None:
    assert words("00ff" + "0" * 60) == f"{WORDS[0]} {WORDS[255]} " + " ".join([WORDS[0]] * 6)
    assert groups("0123456789abcdef" * 4) == "0123 4567 89ab cdef 0123 4567 89ab cdef"
