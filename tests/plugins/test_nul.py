"""A request with a character that no database takes is the client's mistake, not the server's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from plugins.pipeline_health import page


@pytest.mark.parametrize(
    "scope",
    [
        {"query_string": b"run_id=%00&task_id=x", "raw_path": b"/failures"},
        {"query_string": b"run_id=x&task_id=a%00b", "raw_path": b"/failures"},
        {"query_string": b"", "raw_path": b"/tables/shop.%00"},
    ],
)
def test_a_nul_is_refused_before_a_database_is_asked(scope: dict[str, Any]) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing has to be read for that")

    asyncio.run(page({"type": "http", **scope}, receive, send))
    assert [message.get("status") for message in sent] == [400, None]
