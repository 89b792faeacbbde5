"""Who rings, and who is still rung: channels that nobody reads any more leave the group."""

import asyncio
import os
import time
import uuid
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.conf import settings as configured

from sessions.events import notify
from sessions.events.notify import GROUP


async def until(condition: Any, seconds: float = 10) -> None:
    """Let the loop run until a condition, which may be awaited, holds."""
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.01)


async def members(layer: Any) -> dict[str, float]:
    """The channels of the group, and when each of them last joined."""
    if hasattr(layer, "groups"):
        return dict(layer.groups.get(GROUP, {}))
    found = await layer.connection(layer.consistent_hash(GROUP)).zrange(layer._group_key(GROUP), 0, -1, withscores=True)
    return {name.decode(): score for name, score in found}


async def other_process(layer: Any, session: str) -> None:
    """Ring as another process does."""
    await layer.group_send(GROUP, {"type": "doorbell", "rings": {session: [notify.EVENTS]}, "by": "another"})


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def layer(request: pytest.FixtureRequest, settings: Any) -> None:
    """Each layer in turn, as the settings make it for an installation of its own."""
    config = {
        "hosts": [{"address": os.environ.get("TEST_REDIS_URL"), "socket_timeout": 15}],
        "prefix": f"test-{uuid.uuid4().hex[:8]}",
        "group_expiry": 120,
    }
    made = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": config}
    settings.CHANNEL_LAYERS = {"default": made if request.param == "redis" else configured.CHANNEL_LAYERS["default"]}


def test_a_listener_that_has_to_join_anew_leaves_no_channel_behind(layer: None) -> None:
    async def play() -> None:
        hub, layers, session = notify.Hub(), get_channel_layer(), str(uuid.uuid4())
        async with hub.subscribe(session, notify.EVENTS) as bell:

            async def joined() -> bool:
                return len(await members(layers)) == 1

            await until(joined)
            first = await members(layers)
            await layers.group_send(GROUP, {"type": "doorbell"})  # what no process of this version says

            async def anew() -> bool:
                found = await members(layers)
                return bool(found) and found.keys() != first.keys()

            await until(anew)
            assert len(await members(layers)) == 1
            await other_process(layers, session)
            await asyncio.wait_for(bell.wait(), 10)
        assert hub._listener
        hub._listener.cancel()
        await asyncio.gather(hub._listener, return_exceptions=True)
        assert await members(layers) == {}

    asyncio.run(play())


def test_who_listens_joins_again_and_again(layer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "REJOIN_SECONDS", 0.02)

    async def play() -> None:
        hub, layers = notify.Hub(), get_channel_layer()
        async with hub.subscribe("x", notify.EVENTS):
            seen: list[dict[str, float]] = []

            async def again() -> bool:
                seen.append(await members(layers))
                return len({tuple(found.values()) for found in seen if found}) > 2

            await until(again)
            assert {len(found) for found in seen if found} == {1}
        assert hub._listener
        hub._listener.cancel()
        await asyncio.gather(hub._listener, return_exceptions=True)

    asyncio.run(play())


@pytest.mark.redis
@pytest.mark.parametrize("layer", ["redis"], indirect=True)
def test_the_channel_of_a_process_that_was_killed_is_forgotten(layer: None) -> None:
    async def play() -> None:
        layers: Any = get_channel_layer()
        await layers.group_add(GROUP, "killed")
        connection = layers.connection(layers.consistent_hash(GROUP))
        await connection.zadd(layers._group_key(GROUP), {"killed": time.time() - 121})
        await layers.group_add(GROUP, "alive")
        await other_process(layers, "x")
        assert set(await members(layers)) == {"alive"}

    asyncio.run(play())
