"""The one form of an answer that is shown: a JSON object that names its schema."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from embrasure.wire import admin_pb2 as wire


def answer(schema: str, body: Mapping[str, object]) -> wire.Json:
    """Return one JSON object with its schema."""
    return wire.Json(body=msgspec.json.encode({"schema": schema, **body}))
