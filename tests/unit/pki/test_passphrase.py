"""Where a passphrase may come from, and where never."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from embrasure.errors import Denied, Misuse, Refused
from pki.passphrase import PassphraseSource, passphrase_source
from tests.ablation import Ablation


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def private(folder: Path, text: bytes, mode: int = 0o600) -> Path:
    file = folder / "passphrase"
    file.write_bytes(text)
    file.chmod(mode)
    return file


def test_it_comes_from_a_private_file_without_its_line_end(tmp_path: Path) -> None:
    file = private(tmp_path, b"correct horse battery\n")
    source = passphrase_source(fd=None, file=file, no_input=True)
    assert source("key") == source.new("key") == b"correct horse battery"


@pytest.mark.misuse
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, ablation: Ablation) -> None:
    file = private(tmp_path, b"correct horse battery\n", 0o644)
    with pytest.raises(Denied):
        passphrase_source(fd=None, file=file, no_input=True)
    with ablation("the mode of the file") as attack:
        attack.without("embrasure.fs.check_private")
        source = passphrase_source(fd=None, file=file, no_input=True)
        attack.succeeded(source("key") == b"correct horse battery")


@pytest.mark.misuse
def test_a_link_is_refused(tmp_path: Path, ablation: Ablation) -> None:
    private(tmp_path, b"correct horse battery\n")
    (tmp_path / "link").symlink_to("passphrase")
    with pytest.raises(Refused):
        passphrase_source(fd=None, file=tmp_path / "link", no_input=True)
    with ablation("a file opened without following links") as attack:
        attack.without("embrasure.fs._READ", os.O_RDONLY | os.O_CLOEXEC)
        source = passphrase_source(fd=None, file=tmp_path / "link", no_input=True)
        attack.succeeded(source("key") == b"correct horse battery")


@pytest.mark.parametrize("text", [b"", b"\n", b"one\ntwo\n", b"a\0b", b"x" * 1025])
def test_anything_but_one_line_is_a_usage_error(text: bytes, tmp_path: Path) -> None:
    with pytest.raises((Misuse, Refused)):
        passphrase_source(fd=None, file=private(tmp_path, text), no_input=True)


def test_it_comes_from_a_descriptor() -> None:
    end, start = os.pipe()
    os.write(start, b"correct horse battery\n")
    os.close(start)
    assert passphrase_source(fd=end, file=None, no_input=True)("key") == b"correct horse battery"
    os.close(end)


@pytest.mark.parametrize("length", [1025, 2048, 100_000])
def test_one_that_is_too_long_is_never_cut_short(length: int) -> None:
    """A cut one would be the passphrase of nothing, or of less than was meant."""
    end, start = os.pipe()
    writer = threading.Thread(target=write_all, args=(start, b"x" * length))
    writer.start()
    with pytest.raises(Misuse):
        passphrase_source(fd=end, file=None, no_input=True)
    os.close(end)
    writer.join()


def test_the_longest_one_is_taken(tmp_path: Path) -> None:
    end, start = os.pipe()
    write_all(start, b"x" * 1024)
    assert passphrase_source(fd=end, file=None, no_input=True)("key") == b"x" * 1024
    os.close(end)
    file = private(tmp_path, b"x" * 1023 + b"\n")
    assert passphrase_source(fd=None, file=file, no_input=True)("key") == b"x" * 1023


def write_all(descriptor: int, text: bytes) -> None:
    # Who reads may have enough, and hang up.
    with contextlib.suppress(BrokenPipeError), open(descriptor, "wb") as file:
        file.write(text)


def test_a_closed_descriptor_is_a_usage_error() -> None:
    end, start = os.pipe()
    os.close(start)
    os.close(end)
    with pytest.raises(Misuse):
        passphrase_source(fd=end, file=None, no_input=True)


def test_two_sources_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(Misuse):
        passphrase_source(fd=0, file=tmp_path / "x", no_input=True)


def test_a_service_gets_it_as_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private(tmp_path, b"correct horse battery\n", 0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert passphrase_source(fd=None, file=None, no_input=True)("key") == b"correct horse battery"


def test_without_a_person_the_error_names_the_flags() -> None:
    source = passphrase_source(fd=None, file=None, no_input=True)
    with pytest.raises(Denied) as told:
        source("passphrase of alice")
    assert told.value.reason == "no-input"
    assert "--passphrase-file" in told.value.hint


def test_a_person_types_a_new_one_twice() -> None:
    answers = [b"correct horse battery", b"incorrect horse battery"]
    with pytest.raises(Misuse):
        PassphraseSource(lambda _: answers.pop(0), tries=3).new("key")


def test_it_is_never_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PASSPHRASE", "EMBRASURE_PASSPHRASE", "EMBRASURE_PASSPHRASE_FILE"):
        monkeypatch.setenv(name, "correct horse battery")
    with pytest.raises(Denied):
        passphrase_source(fd=None, file=None, no_input=True)("key")
