# SPDX-License-Identifier: Apache-2.0
"""Nothing is copied on this side, nothing is written meanwhile, and everything comes back."""

from __future__ import annotations

import gc
import weakref

import diolkos
import numpy as np

from support import Daemon, address, refused, region_bytes, same

MEBIBYTE = 1 << 20


def check_an_array_is_sent_from_where_it_is(daemon: Daemon) -> None:
    with daemon.connect(region_bytes=4 * MEBIBYTE) as client:
        echo = client.open("echo")
        mine = client.empty((16, 1024), np.float32)
        mine[...] = np.arange(16 * 1024, dtype=np.float32).reshape(16, 1024)
        taken = region_bytes()
        # All of the region but this array and the reply is in use: a copy would need another region.
        rest = [client.empty(MEBIBYTE // 4, np.uint8) for _ in range(14)]
        for _ in range(50):
            same(echo.infer(data=mine)["data"], mine)
            part = mine[3:5]
            same(np.shares_memory(part, mine), True)
            same(echo.infer(data=part)["data"], part)
        same(region_bytes(), taken, "the memory of all regions")
        del rest


def check_the_daemon_reads_the_memory_and_no_copy_of_it(daemon: Daemon) -> None:
    with daemon.connect() as client:
        echo = client.open("echo")
        mine = client.empty(1000, np.uint8)
        mine[...] = 1
        view = mine[:]
        with daemon.paused():
            pending = echo.submit(data=mine)
            # A view that was made before is still writable, as NumPy has it. What it writes is seen by the daemon.
            view[...] = 2
        same(pending.wait()["data"], np.full(1000, 2, np.uint8))


def check_an_output_lies_in_shared_memory_and_can_be_an_input(daemon: Daemon) -> None:
    with daemon.connect(region_bytes=4 * MEBIBYTE) as client:
        echo = client.open("echo")
        first = echo.infer(data=np.arange(MEBIBYTE, dtype=np.uint8))["data"]
        taken = region_bytes()
        rest = client.empty(2 * MEBIBYTE - 4096, np.uint8)
        # There is no room for a copy of the input beside the output.
        second = echo.infer(data=first[: MEBIBYTE // 2])["data"]
        same(second, first[: MEBIBYTE // 2])
        same(region_bytes(), taken, "the memory of all regions")
        for flag in (first.flags, second.flags):
            same(flag.writeable, False)
        refused(ValueError, lambda: first.setflags(write=True))
        del rest


def check_an_array_is_read_only_while_a_request_has_it(daemon: Daemon) -> None:
    with daemon.connect() as client:
        echo = client.open("echo")
        mine = client.empty(4, np.int64)
        mine[...] = 7
        with daemon.paused():
            pending = echo.submit(data=mine)
            refused(ValueError, lambda: mine.fill(0), "read-only")
            refused(ValueError, lambda: mine.setflags(write=True))
            refused(ValueError, lambda: mine[1:].fill(0), "read-only")
            other = echo.submit(data=mine[2:])
        same(pending.wait()["data"], mine)
        same(mine.flags.writeable, False, "the flag while another request has it")
        same(other.wait()["data"], mine[2:])
        mine[...] = 8
        same(echo.infer(data=mine)["data"], np.full(4, 8, np.int64))
        same(mine.flags.writeable, True)
        # One that its owner made read-only stays so.
        mine.flags.writeable = False
        echo.infer(data=mine)
        same(mine.flags.writeable, False)


def check_an_array_can_be_written_after_whatever_end(daemon: Daemon) -> None:
    with daemon.connect() as client:
        echo, minmax = client.open("echo"), client.open("minmax")
        mine = client.empty(4, np.int64)
        mine[...] = 7
        refused(diolkos.InvalidArgument, lambda: echo.infer(date=mine), "no input `date`")
        same(mine.flags.writeable, True, "after a wrong name")
        refused(diolkos.InvalidArgument, lambda: echo.infer(data=mine, more=np.array([1j])))
        same(mine.flags.writeable, True, "after a wrong type")
        flags = client.empty(2, np.bool_)
        refused(diolkos.InvalidArgument, lambda: minmax.infer(data=flags))
        same(flags.flags.writeable, True, "after a refusal")
        with daemon.paused():
            pending = echo.submit(data=mine)
            refused(diolkos.Timeout, lambda: pending.wait(0.01))
            same(mine.flags.writeable, False, "after a timeout: it is still under way")
            pending.cancel()
            same(mine.flags.writeable, True, "after cancel")
            pending = echo.submit(data=mine)
            del pending
            same(mine.flags.writeable, True, "after dropping the request")
        same(echo.infer(data=mine)["data"], mine)


def check_memory_is_used_again(daemon: Daemon) -> None:
    """A thousand requests of 1 MiB, in a region of four."""
    with daemon.connect(region_bytes=4 * MEBIBYTE) as client:
        echo = client.open("echo")
        mine = client.empty(MEBIBYTE, np.uint8)
        ordinary = np.arange(MEBIBYTE, dtype=np.uint8)
        places = set()
        taken = None
        for round in range(1000):
            if round % 2:
                mine[:8] = round % 251
                output = echo.infer(data=mine)["data"]
                same(int(output[0]), round % 251)
            else:
                output = echo.infer(data=ordinary)["data"]
                same(int(output[255]), 255)
            places.add(address(output))
            del output
            if round == 1:
                taken = region_bytes()
        same(region_bytes(), taken, "the memory of all regions")
        same(len(places) < 5, True, f"that few places were used, which were {len(places)},")


def check_the_last_array_frees_the_memory(daemon: Daemon) -> None:
    with daemon.connect(region_bytes=2 * MEBIBYTE) as client:
        first = client.empty(MEBIBYTE, np.uint8)
        place = address(first)
        view = first[100:200].reshape(10, 10)[2:]
        view[...] = 9
        gone = weakref.ref(first)
        del first
        gc.collect()
        same(gone() is not None, True, "that the view keeps it")
        second = client.empty(MEBIBYTE // 2, np.uint8)
        second[...] = 0
        same(address(second) != place and bool((view == 9).all()), True, "that it was not used again")
        del view
        same(address(client.empty(MEBIBYTE, np.uint8)), place, "the place of the next array")


def check_arrays_outlive_their_client(daemon: Daemon) -> None:
    with daemon.connect() as client:
        mine = client.empty(1000, np.int32)
        mine[...] = 5
        output = client.infer("echo", data=mine)["data"]
    del client
    gc.collect()
    mine[...] += 1
    same(int(output.sum()), 5000)
    same(int(mine.sum()), 6000)


def check_an_array_of_another_client_is_copied(daemon: Daemon) -> None:
    with daemon.connect() as one, daemon.connect() as other:
        # At the same place of the other's region lies something else.
        decoy = other.empty(1000, np.uint8)
        decoy[...] = 1
        theirs = one.empty(1000, np.uint8)
        theirs[...] = 2
        same(other.infer("echo", data=theirs)["data"], theirs)
        same(theirs.flags.writeable, True)


def check_more_than_the_daemon_grants(daemon: Daemon) -> None:
    with daemon.connect() as client:
        error = refused(MemoryError, lambda: client.empty(1 << 45, np.uint8), "no memory")
        same((type(error), error.code), (diolkos.NoMemory, None))
        same(client.infer("echo", data=1)["data"].item(), 1)
