# SPDX-License-Identifier: Apache-2.0
"""asyncio."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable

import diolkos
import numpy as np
from diolkos import aio

from support import Daemon, eventually, same


async def fails(kind: type[BaseException], awaitable: Awaitable[object], *words: str) -> BaseException:
    """The exception of this kind that awaiting must raise, with these words in its text."""
    try:
        result = await awaitable
    except kind as error:
        missing = [word for word in words if word not in str(error)]
        same(missing, [], f"what is missing in {error}")
        return error
    raise AssertionError(f"it gave {result!r}, and no {kind.__name__}")


def each_way(daemon: Daemon, check: Callable[[aio.Client, str], Awaitable[None]]) -> None:
    """Runs a check over shared memory and over a stream, each in a loop of its own."""

    async def main(way: str, address: str) -> None:
        async with aio.connect(address) as client:
            await check(client, way)

    for way, address in (("shared memory", daemon.unix), ("stream", daemon.tcp)):
        asyncio.run(main(way, address))


def check_the_same_calls(daemon: Daemon) -> None:
    async def check(client: aio.Client, way: str) -> None:
        same(client.shares_memory, way == "shared memory")
        same((await client.health()).live, True)
        same("echo" in {model.name for model in await client.models()}, True)
        echo = await client.open("echo")
        same((echo.name, echo.version, echo.inputs[0].name, echo.outputs[0].name), ("echo", 1, "data", "data"))
        mine = client.empty((2, 3))
        mine[...] = 4
        same((await echo.infer(data=mine))["data"], mine)
        mine[...] = 5
        same((await client.infer("echo", {"data": mine}))["data"], mine)
        same((await echo.with_options(timeout=10).infer(data=[1]))["data"].tolist(), [1])
        same((await client.stats("echo"))[0].succeeded > 2, True)
        error = await fails(diolkos.NotFound, client.infer("unknown"), "unknown")
        same(getattr(error, "code"), "not_found")
        await fails(diolkos.InvalidArgument, echo.infer(date=1), "it has `data`")
        await fails(diolkos.InvalidArgument, echo.infer(), "data")
        await fails(diolkos.PermissionDenied, client.load("echo"))
        await fails(diolkos.PermissionDenied, client.unload("echo"))

    each_way(daemon, check)


def check_hundreds_at_once(daemon: Daemon) -> None:
    async def check(client: aio.Client, way: str) -> None:
        echo = await client.open("echo")

        async def ask(number: int) -> None:
            array = client.empty(1000, np.uint32) if number % 2 else np.empty(1000, np.uint32)
            array[...] = number
            for _ in range(5):
                same((await echo.infer(data=array))["data"], array, way)

        await asyncio.gather(*(ask(number) for number in range(100)))
        await asyncio.gather(*(client.infer("noop") for _ in range(1000)))

    each_way(daemon, check)


def check_cancellation(daemon: Daemon) -> None:
    async def check(client: aio.Client, way: str) -> None:
        echo = await client.open("echo")
        mine = client.empty(10)
        mine[...] = 1
        with daemon.paused():
            # More than fit: some are under way, some wait for a place, some for the thread.
            tasks = [asyncio.create_task(echo.infer(data=mine)) for _ in range(100)]
            await asyncio.sleep(0.05)
            same(mine.flags.writeable, False, way)
            for task in tasks:
                task.cancel()
            ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
            same({type(one) for one in ended}, {asyncio.CancelledError}, way)
            await fails(TimeoutError, asyncio.wait_for(echo.infer(data=[1]), 0.02))
        same((await echo.infer(data=[2]))["data"].tolist(), [2], way)

        def writable() -> bool:
            return bool(mine.flags.writeable)

        await asyncio.to_thread(eventually, "that the array can be written", writable)

    each_way(daemon, check)


def check_the_loop_goes_on_meanwhile(daemon: Daemon) -> None:
    async def check(client: aio.Client, way: str) -> None:
        echo = await client.open("echo")
        with daemon.paused():
            tasks = [asyncio.create_task(echo.infer(data=np.zeros(100_000))) for _ in range(100)]
            tasks.append(asyncio.create_task(echo.infer(data=[1])))
            begun, used, longest = time.monotonic(), time.process_time(), 0.0
            while time.monotonic() - begun < 0.5:
                before = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - before)
            used = time.process_time() - used
        # Generous, because the machine may be busy: waiting in the loop would have taken all of it.
        same(longest < 0.4, True, f"that the loop never stood still by {way}, which was {longest} s,")
        same(used < 0.4, True, f"that waiting takes no processor time by {way}, which was {used} s,")
        await asyncio.gather(*tasks)

    each_way(daemon, check)


def check_a_daemon_is_killed_and_restarted(_: Daemon) -> None:
    with Daemon() as daemon:

        async def check(client: aio.Client, way: str) -> None:
            echo = await client.open("echo")
            daemon.stop()
            tasks = [asyncio.create_task(echo.infer(data=np.full(5, number))) for number in range(20)]
            await asyncio.sleep(0.05)
            daemon.kill()
            await asyncio.to_thread(daemon.restart)
            for number, task in enumerate(tasks):
                same((await task)["data"], np.full(5, number), way)

        each_way(daemon, check)


def check_an_ended_client(daemon: Daemon) -> None:
    async def main() -> None:
        client = aio.connect(daemon.unix)
        await fails(diolkos.Error, client.infer("echo", data=1), "not connected")
        await client
        echo = await client.open("echo")
        with daemon.paused():
            task = asyncio.create_task(echo.infer(data=1))
            await asyncio.sleep(0.02)
            await client.close()
            await fails(diolkos.ConnectionLost, task, "closed")
        await fails(diolkos.ConnectionLost, echo.infer(data=1), "closed")
        await fails(diolkos.ConnectionLost, client.health(), "closed")
        await client.close()
        await fails(diolkos.ConnectionLost, aio.connect("unix:/nowhere").__aenter__(), "is it running")

    asyncio.run(main())


def check_threads_end_with_their_client(daemon: Daemon) -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    async def main(close: bool) -> None:
        client = await aio.connect(daemon.unix)
        same((await client.infer("echo", data=1))["data"].item(), 1)
        if close:
            await client.close()

    asyncio.run(main(True))
    gc.collect()
    time.sleep(0.05)
    before = threads()
    for round in range(10):
        asyncio.run(main(round % 2 == 0))
    gc.collect()
    eventually("that its threads end", lambda: threads() <= before)


def check_another_loop_is_refused(daemon: Daemon) -> None:
    loop = asyncio.new_event_loop()

    async def connect() -> aio.Client:
        return await aio.connect(daemon.unix)

    client = loop.run_until_complete(connect())
    asyncio.run(refuse(client))
    loop.run_until_complete(client.close())
    loop.close()


async def refuse(client: aio.Client) -> None:
    await fails(diolkos.Error, client.infer("echo", data=1), "another event loop")
