"""Where a passphrase comes from: the terminal, a descriptor, a private file, a credential.

Never from an argument or the environment, which other processes can read.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from pathlib import Path

from embrasure import fs
from embrasure.errors import Denied, Misuse, Unavailable

TRIES = 3
_PASSPHRASE_BYTES = 1024
_FLAGS = "--passphrase-fd N, --passphrase-file FILE or $CREDENTIALS_DIRECTORY/passphrase"


class PassphraseSource:
    """Answers with the passphrase of a named key.

    tries: how often it makes sense to ask again
    """

    def __init__(self, ask: Callable[[str], bytes], *, tries: int) -> None:
        self._ask = ask
        self.tries = tries

    def __call__(self, what: str) -> bytes:
        """Return the passphrase of `what`; raises Denied `no-input` when nobody can be asked."""
        return self._ask(what)

    def new(self, what: str) -> bytes:
        """Return a passphrase for keys that are made now; a person types it twice."""
        first = self._ask(f"new passphrase for {what}")
        if self.tries > 1 and self._ask(f"the same again for {what}") != first:
            raise Misuse("passphrase", expected="the same twice", got="two different ones")
        return first


def passphrase_source(*, fd: int | None, file: Path | None, no_input: bool) -> PassphraseSource:
    """Return the source that the flags name, else the service's credential, else the terminal."""
    if fd is not None and file is not None:
        raise Misuse("passphrase", expected="one source", got="--passphrase-fd and a file")
    if fd is not None:
        return _fixed(_from_fd(fd))
    if file is not None:
        return _fixed(_from_file(file))
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder and (Path(folder) / "passphrase").exists():
        # systemd makes these files itself, readable by the service only.
        return _fixed(_clean(fs.read_file(Path(folder) / "passphrase", limit=_PASSPHRASE_BYTES)))
    return PassphraseSource(_nobody if no_input else _prompt, tries=1 if no_input else TRIES)


def pin_of(file: str, ask: Callable[[str], bytes], what: str) -> bytes:
    """Return a token's PIN: from `file` when its URI names one, which only we may read; else asked.

    Raises Denied, Refused, Misuse.
    """
    return _from_file(Path(file)) if file else ask(what)


def _fixed(passphrase: bytes) -> PassphraseSource:
    return PassphraseSource(lambda _: passphrase, tries=1)


def _clean(raw: bytes) -> bytes:
    line = raw[:-1] if raw.endswith(b"\n") else raw
    if not line or b"\n" in line or b"\0" in line or len(raw) > _PASSPHRASE_BYTES:
        raise Misuse("passphrase", expected="one line of at most 1 KiB", got="something else")
    return line


def _from_fd(fd: int) -> bytes:
    found = b""
    try:
        while len(found) <= _PASSPHRASE_BYTES:
            piece = os.read(fd, _PASSPHRASE_BYTES)
            if not piece:
                break
            found += piece
    except OSError as problem:
        raise Misuse(
            "--passphrase-fd", expected="an open descriptor", got=problem.strerror
        ) from None
    return _clean(found)


def _from_file(file: Path) -> bytes:
    return _clean(fs.read_file(file, limit=_PASSPHRASE_BYTES, private=True))


def _prompt(what: str) -> bytes:
    try:
        with Path("/dev/tty").open("r+b", buffering=0):
            pass
    except OSError:
        return _nobody(what)
    try:
        return getpass.getpass(f"embrasure: {what}: ").encode("utf-8")
    except EOFError:
        raise Unavailable("passphrase", expected="an answer", got="end of input") from None


def _nobody(what: str) -> bytes:
    raise Denied(what, expected="a passphrase", got="none", hint=_FLAGS, reason="no-input")
