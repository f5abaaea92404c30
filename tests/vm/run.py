# SPDX-License-Identifier: Apache-2.0
"""Tests that need vsock, in a virtual machine that has it.

    python run.py [--log FILE]

A kernel without the module `vsock_loopback` has nobody who could connect to a vsock listener, and `/dev/vhost-vsock` is missing on
many hosts. So the test programs that the workspace built run as the init process of a small Linux under QEMU's emulation, which needs
neither KVM nor root. In it there are two machines that a daemon can tell apart:

    CID 1  the virtual machine itself, over its loopback device
    CID 2  the host, over virtio-vsock and vhost-device-vsock: tests ask the relay here to connect back to them

And clients in it call a daemon on the host, as those of a sandbox do: over vsock, which arrives at a unix socket (hybrid vsock).

QEMU is the one on the PATH, else Debian's, which is downloaded and unpacked below target/vm and not installed; so are the kernel and
busybox. vhost-device-vsock is built by cargo, below target/vm as well.
"""

import argparse
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import initramfs

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "vm"
VHOST = ("vhost-device-vsock", "0.3.0")
RELAY_PORT = 7000
DAEMON_PORT = 5001
# Emulation of a machine under load is slow; this only ends what hangs.
PATIENCE = 1200

# Test programs, with the filters that choose the tests.
PROGRAMS = [
    ("rim_daemon", ["vsock::"]),
    ("native_channel", ["calls::", "a_context_id"]),
    # Two tenants over every way in, and here the way from another machine, too.
    ("border", []),
]
# What a sandbox runs: programs of the workspace with their arguments, against the daemon on the host.
CALLS = [
    ("ask", f"vsock:host:{DAEMON_PORT} affine"),
    ("ask", f"vsock:host:{DAEMON_PORT} noop"),
    ("diolkos", f"ls --address vsock:host:{DAEMON_PORT}"),
    ("diolkos", f"run noop --address vsock:host:{DAEMON_PORT}"),
]
# In the order in which they need each other.
MODULES = [
    # How the daemon learns whose a connection over TCP is.
    "kernel/net/ipv4/inet_diag.ko",
    "kernel/net/ipv4/tcp_diag.ko",
    "kernel/drivers/virtio/virtio_ring.ko",
    "kernel/drivers/virtio/virtio.ko",
    "kernel/drivers/virtio/virtio_pci_legacy_dev.ko",
    "kernel/drivers/virtio/virtio_pci_modern_dev.ko",
    "kernel/drivers/virtio/virtio_pci.ko",
    "kernel/net/vmw_vsock/vsock.ko",
    "kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko",
    "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko",
    "kernel/net/vmw_vsock/vsock_loopback.ko",
]


class Unavailable(Exception):
    """This machine can't do it; the text says why."""


def call(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise Unavailable(f"`{' '.join(map(str, command[:4]))} …` failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def with_fresh_lists(work):
    """Does it, and once more with new lists of packages where the ones that are here are missing or out of date."""
    try:
        return work()
    except Unavailable:
        if os.geteuid() != 0:
            raise
        print("updating the lists of packages", flush=True)
        call("apt-get", "update", "-qq")
        return work()


def unpacked(name, packages):
    """Debian packages, downloaded and unpacked into a folder of this name."""
    folder = FOLDER / name
    if folder.exists():
        return folder
    debs = FOLDER / f"{name}.debs"
    shutil.rmtree(debs, ignore_errors=True)
    debs.mkdir(parents=True)
    call("apt-get", "download", "-qq", *packages, cwd=debs)
    partial = FOLDER / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for package in debs.iterdir():
        call("dpkg", "-x", package, partial)
    shutil.rmtree(debs)
    partial.rename(folder)
    return folder


def qemu():
    """The command, and the environment that it needs."""
    if found := shutil.which("qemu-system-x86_64"):
        return [found], {}
    # What is missing here, by name: `'URI' qemu-system-x86_1%3a7.2_amd64.deb SIZE HASH`.
    listed = call("apt-get", "install", "--print-uris", "-qq", "--no-install-recommends", "qemu-system-x86")
    packages = re.findall(r"^'\S+' ([^_\s]+)_\S+\.deb ", listed, re.MULTILINE)
    if "qemu-system-x86" not in packages:
        raise Unavailable("apt-get knows no qemu-system-x86")
    root = unpacked("qemu", packages)
    libraries = [root / "usr/lib/x86_64-linux-gnu", root / "lib/x86_64-linux-gnu", root / "usr/lib/x86_64-linux-gnu/pulseaudio"]
    environment = {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    firmware = [part for share in ("qemu", "seabios") for part in ("-L", root / "usr/share" / share)]
    return [root / "usr/bin/qemu-system-x86_64", *firmware], environment


def kernel():
    """The image and the folder of its modules."""
    depends = call("apt-cache", "depends", "linux-image-cloud-amd64")
    names = re.findall(r"Depends: (linux-image-\S+-cloud-amd64)$", depends, re.MULTILINE)
    if not names:
        raise Unavailable("apt-cache knows no linux-image-cloud-amd64")
    root = unpacked(names[0], names[:1])
    return next((root / "boot").glob("vmlinuz-*")), next((root / "lib/modules").iterdir())


def busybox():
    # In /bin or in /usr/bin, depending on the release.
    return next(unpacked("busybox", ["busybox-static"]).rglob("bin/busybox"))


def vhost_device():
    name, version = VHOST
    root = FOLDER / f"{name}-{version}"
    program = root / "bin" / name
    if not program.exists():
        print(f"building {name} {version}", flush=True)
        call("cargo", "install", name, "--version", version, "--locked", "--quiet", "--root", root)
    return program


def built():
    """Paths of the test programs and of the others, built if they are not."""
    # With the features of the whole workspace, so that nothing is built a second time.
    command = ["cargo", "build", "--workspace", "--all-targets", "--message-format", "json", "--quiet"]
    tests, others = {}, {}
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise AssertionError("the test programs do not build")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable"):
            found = tests if message["profile"]["test"] else others
            found[message["target"]["name"]] = Path(message["executable"])
    return tests, others


class Relay:
    """Connects back: whoever connects from the machine says a port of its own first."""

    def __init__(self, uds):
        self.uds = uds
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{uds}_{RELAY_PORT}")
        self.listener.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self.relay, args=[stream], daemon=True).start()

    def relay(self, asked):
        back = socket.socket(socket.AF_UNIX)
        back.connect(str(self.uds))
        back.sendall(b"CONNECT " + line(asked))
        if not line(back).startswith(b"OK "):
            asked.close()
            return
        threading.Thread(target=splice, args=[asked, back], daemon=True).start()
        splice(back, asked)


def line(stream):
    read = b""
    while not read.endswith(b"\n"):
        byte = stream.recv(1)
        if not byte:
            break
        read += byte
    return read


def splice(source, sink):
    try:
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def host_daemon(program, uds):
    """A daemon where the machine's connections to its port arrive; it ends with its standard input."""
    path = Path(f"{uds}_{DAEMON_PORT}")
    command = [program, "serve", "--exit-with-stdin", "--listen", f"unix:{path}", "--model", ROOT / "tests/data/affine.onnx"]
    with open(FOLDER / "daemon.log", "wb") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
    wait_for(path)
    return daemon


def wait_for(path):
    for _ in range(1500):
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} does not come")


def boot(folder, tests, others):
    """Runs the machine to its end, and returns what it wrote on its console."""
    image, modules = with_fresh_lists(kernel)
    command, for_qemu = with_fresh_lists(qemu)
    shell = with_fresh_lists(busybox)
    archive = folder / "initramfs"
    modules = [modules / module for module in MODULES]
    lines = [f"/tests/{tests[test].name} {' '.join(filters)}" for test, filters in PROGRAMS]
    for program, arguments in CALLS:
        lines.append(f"/tests/{program} {arguments} && echo call passed || echo call failed: {program} {arguments}")
    programs = {tests[test].name: tests[test] for test, _ in PROGRAMS} | {name: others[name] for name, _ in CALLS}
    environment = {"NO_COLOR": "1", "DIOLKOS_TEST_VSOCK": "1", "DIOLKOS_TEST_VSOCK_RELAY": RELAY_PORT}
    initramfs.write(archive, shell, modules, programs, lines, environment)
    uds, vhost = folder / "v", folder / "vhost"
    device = subprocess.Popen([vhost_device(), "--guest-cid=3", f"--socket={vhost}", f"--uds-path={uds}"])
    daemon = None
    try:
        Relay(uds)
        daemon = host_daemon(others["diolkos"], uds)
        wait_for(vhost)
        machine = ["-M", "q35,memory-backend=memory", "-cpu", "max", "-smp", "2", "-m", "1G"]
        machine += ["-accel", os.environ.get("DIOLKOS_VM_ACCEL", "tcg,thread=multi")]
        machine += ["-object", "memory-backend-memfd,id=memory,size=1G,share=on"]
        machine += ["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none", "-serial", "stdio"]
        machine += ["-chardev", f"socket,id=vsock,path={vhost}", "-device", "vhost-user-vsock-pci,chardev=vsock"]
        machine += ["-kernel", image, "-initrd", archive, "-append", "console=ttyS0 quiet panic=-1 reboot=t"]
        done = subprocess.run(
            [*command, *machine],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            env={**os.environ, **for_qemu},
        )
        return done.stdout.decode(errors="replace").replace("\r", "")
    finally:
        device.kill()
        device.wait()
        if daemon:
            daemon.stdin.close()
            daemon.wait()


def judge(console):
    """Counts, and whether everything that should have run did."""
    results = re.findall(r"^test result: (\w+)\. (\d+) passed; (\d+) failed; (\d+) ignored", console, re.MULTILINE)
    passed, failed, skipped = (sum(int(result[at]) for result in results) for at in (1, 2, 3))
    passed += console.count("\ncall passed\n")
    failed += console.count("\ncall failed: ")
    if len(results) < len(PROGRAMS) or "all programs have run" not in console:
        failed += 1
    if failed or skipped:
        print(console)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", metavar="FILE", help="write what the machine says on its console")
    options = parser.parse_args()
    try:
        if platform.machine() != "x86_64":
            raise Unavailable(f"the machine is an x86-64 one, and this is {platform.machine()}")
        if not (shutil.which("apt-get") and shutil.which("dpkg")):
            raise Unavailable("kernel and busybox are Debian's, and apt-get or dpkg is missing")
        FOLDER.mkdir(parents=True, exist_ok=True)
        tests, others = built()
        with tempfile.TemporaryDirectory(prefix="diolkos-vm-") as folder:
            console = boot(Path(folder), tests, others)
    except Unavailable as error:
        if os.environ.get("CI", "") not in ("", "0", "false"):
            raise
        print(f"SKIP virtual machine: {error}\n0 passed, 0 failed, 1 skipped")
        return 0
    if options.log:
        Path(options.log).write_text(console)
    return judge(console)


if __name__ == "__main__":
    sys.exit(main())
