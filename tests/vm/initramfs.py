# SPDX-License-Identifier: Apache-2.0
"""The root file system of the test machine: an archive in cpio's format `newc` (cpio(5)), which the kernel unpacks."""

import re
import subprocess
from pathlib import Path

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mkdir -p /dev/shm
/bin/busybox mount -t tmpfs tmpfs /dev/shm
/bin/busybox mount -t tmpfs tmpfs /tmp
for module in {modules}; do /bin/busybox insmod $module; done
/bin/busybox ip link set lo up
export {environment}
{lines}
echo "all programs have run"
/bin/busybox poweroff -f
"""


def write(path, busybox, modules, programs, lines, environment):
    """An archive with programs by their names, and an init that loads modules, runs lines of a shell, and ends the machine."""
    files = {"bin/busybox": busybox.read_bytes()}
    libraries = set()
    for module in modules:
        files[f"modules/{module.name}"] = module.read_bytes()
    for name, program in programs.items():
        # What is left out are symbols, which are most of it.
        stripped = path.with_name(name)
        subprocess.run(["strip", "-o", stripped, program], check=True)
        files[f"tests/{name}"] = stripped.read_bytes()
        stripped.unlink()
        libraries.update(shared_libraries(program))
    for library in libraries:
        files[str(library).lstrip("/")] = library.read_bytes()
    init = INIT.format(
        modules=" ".join(f"/modules/{module.name}" for module in modules),
        environment=" ".join(f"{name}={value}" for name, value in environment.items()),
        lines="\n".join(lines),
    )
    files["init"] = init.encode()
    files["etc/hosts"] = b"127.0.0.1 localhost\n::1 localhost\n"
    files["etc/nsswitch.conf"] = b"hosts: files\n"
    path.write_bytes(archive(files))


def shared_libraries(program):
    """Where the dynamic linker finds them, itself among them."""
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return {Path(found) for found in re.findall(r"(/\S+) \(0x", listed)}


def archive(files):
    folders = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    entries = [(name, 0o040755, b"") for name in sorted(folders)]
    entries += [(name, 0o100755, content) for name, content in sorted(files.items())]
    return b"".join(entry(*one) for one in [*entries, ("TRAILER!!!", 0, b"")])


def entry(name, mode, content):
    name = name.encode() + b"\0"
    links = 2 if mode & 0o040000 else 1
    #        inode, mode, uid, gid, links, time, size, device (2), special device (2), length of the name, checksum
    numbers = [0, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name), 0]
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return padded(header + name) + padded(content)


def padded(data):
    return data + bytes(-len(data) % 4)
