"""`embrasure pki transcript` and `pki verify-transcript`: close, show and verify what was done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from embrasure.command import Common, common, screen
from pki.options import passphrase_options

if TYPE_CHECKING:
    from pki.replay import Replayed
    from pki.transcript import Act

_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("close")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option(
    "--sign", multiple=True, required=True, metavar="KEY", help="Key of one present (repeat)."
)
@passphrase_options
@common
def pki_transcript_close(
    common: Common,
    folder: Path,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Close the transcript of a trust folder with the signatures of those present.

    It is verified and shown first, whatever the flags: nobody signs what was not shown. The next
    act begins a new file, which names the last line of this one.

    \b
    Examples:
      embrasure pki transcript close trust --sign alice.key --sign bob.key
      embrasure pki transcript close trust --sign 'hsm:2?label=root-1'
    """
    from pki import people, replay, signers, transcript
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    signed, file = [], folder
    with trust.lock():
        held = transcript.last(trust.path)
        if held.lines:
            last = transcript.file_of(trust.path, held.number)
            seen = replay.verify(last, trust, may_be_open=True)
            click.echo(screen("\n".join([*_acts(seen), f"head {seen.head}"])), err=True)
        for uri in [signers.as_uri(text) for text in sign]:
            opened = signers.open_key(uri, source, purpose="security", root=trust.root_id)
            pub = people.parse_public(people.public_file(opened.header))
            file = transcript.close(trust.path, trust.root_id, opened, pub)
            signed.append(pub.person)
    body = {"file": str(file), "signers": signed}
    common.emit("embrasure.pki.transcript/1", body, f"{file} is signed by {', '.join(signed)}")


@click.command("verify-transcript")
@click.argument("file", type=_FILE)
@click.option("--trust", "folder", type=_DIR, help="The trust folder that it is about.")
@click.option("--open", "may_be_open", is_flag=True, help="Also when nobody has signed it yet.")
@common
def pki_verify_transcript(
    common: Common, file: Path, folder: Path | None, may_be_open: bool
) -> None:
    """Verify a transcript again: its chain, the signatures that close it, what it left behind.

    Without --trust nobody knows whether its signers are keyholders, and that is said.

    \b
    Examples:
      embrasure pki verify-transcript trust/transcripts/0001.jsonl --trust trust
      embrasure pki verify-transcript archive/0001.jsonl --json
    """
    from pki import replay
    from pki.folder import TrustFolder

    trust = TrustFolder.open(folder) if folder is not None else None
    found = replay.verify(file, trust, may_be_open=may_be_open)
    lines = [_head(one) for one in found.acts]
    by = ", ".join(found.signers) or "nobody"
    whose = "keyholders of this fleet" if trust is not None else "keys not compared with any fleet"
    lines.append(f"{len(found.acts)} acts, signed by {by} ({whose})")
    lines.append(f"{found.checked} files in force are as it says; head {found.head}")
    common.emit("embrasure.pki.verify-transcript/1", found.as_json(), "\n".join(lines))


def _acts(found: Replayed) -> list[str]:
    """Return each act, a line for itself and one for each thing that it left or took away."""
    lines = []
    for one in found.acts:
        lines.append(_head(one))
        lines += [f"    {output.place} sha256:{output.sha256}" for output in one.outputs]
        lines += [f"    {place} is gone" for place in one.gone]
    return lines


def _head(one: Act) -> str:
    return f"{one.n} {one.at} {one.who}: {one.command}: {one.ended}"
