"""The owner's word on apps, as the arguments of `node init` say it: ports and interpreters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from embrasure.config import parse_toml
from embrasure.errors import Misuse
from embrasure.trust import layout
from node.config import AppConfig


def app_texts(apps: Sequence[str], interpreters: Sequence[str]) -> Mapping[str, str]:
    """Return app -> text of its `apps.d` file.

    apps: `APP:PORT=NUMBER`, once for each port; interpreters: `NAME=FILE`, for all of these apps
    Raises Misuse. Nothing is allowed that was not said: an app without a port may have none.
    """
    ports: dict[str, dict[str, int]] = {}
    for text in apps:
        app, _, rest = text.partition(":")
        name, equals, number = rest.partition("=")
        if not equals or not number.isascii() or not number.isdigit():
            raise Misuse("--app", expected="APP:PORT=NUMBER, such as shop:web=8001", got=text,
                         hint="--app shop:web=8001")  # fmt: skip
        mine = ports.setdefault(layout.check_app(app), {})
        if name in mine:
            raise Misuse("--app", expected="each port once", got=text,
                         hint="another name for it: --app shop:admin=8002")  # fmt: skip
        mine[name] = int(number)
    if interpreters and not ports:
        raise Misuse("--interpreter", expected="an --app that may use it", got="none",
                     hint="--app shop:web=8001 --interpreter python3=/usr/bin/python3")  # fmt: skip
    programs = dict(_pair(text) for text in interpreters)
    return {app: _text(app, mine, programs) for app, mine in ports.items()}


def _pair(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals:
        raise Misuse("--interpreter", expected="NAME=FILE", got=text,
                     hint="--interpreter python3=/usr/bin/python3")  # fmt: skip
    return name, path


def _text(app: str, ports: Mapping[str, int], interpreters: Mapping[str, str]) -> str:
    lines = ["[ports]", *(f"{_key(name)} = {number}" for name, number in ports.items())]
    lines += ["[interpreters]"]
    lines += [f"{_key(name)} = {json.dumps(path)}" for name, path in interpreters.items()]
    text = "\n".join([*lines, ""])
    # The same reader as at each start: a name or number that does not fit ends here.
    parse_toml(text.encode("utf-8"), AppConfig, thing=f"configuration of {app}")
    return text


def _key(name: str) -> str:
    # A JSON string is a TOML basic string, and so a quoted key.
    return json.dumps(name)
