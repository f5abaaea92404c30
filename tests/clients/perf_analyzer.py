# SPDX-License-Identifier: Apache-2.0
"""Triton's perf_analyzer, unmodified, to completion against the daemon.

    python perf_analyzer.py [--requests N]

The binary is the one inside the wheel tritonclient 2.50.0 (newer ones need a newer glibc than Debian 12
has), with the CUDA runtime's shared library from its wheel and Debian's libb64. All three are downloaded
and unpacked below target/perf_analyzer; nothing is installed and no GPU is used.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from harness import DIGITS, MODELS, ROOT, Checks, Daemon, Skip, says

WHEELS = ("tritonclient==2.50.0", "nvidia-cuda-runtime-cu12==12.6.77")
# The last published build for Debian 12; a mirror without it is a skip.
DEBIAN_PACKAGE = "libb64-0d"
FOLDER = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "perf_analyzer"
MOBILENET = "mobilenet_v2_1.0_224_dq"
PATIENCE = 300


class Unavailable(Exception):
    """Something can't be downloaded."""


def fetch():
    """Path of the binary and of the folders with its libraries."""
    root = FOLDER / "root"
    binary = root / "tritonclient-2.50.0.data/data/bin/perf_analyzer"
    folders = [root / "nvidia/cuda_runtime/lib", root / "usr/lib/x86_64-linux-gnu"]
    if platform.machine() != "x86_64":
        raise Skip(f"perf_analyzer exists for x86_64, and this is {platform.machine()}")
    if not (binary.exists() and all(folder.exists() for folder in folders)):
        FOLDER.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        download([*pip, "--disable-pip-version-check", "--dest", str(FOLDER), *WHEELS])
        for wheel in FOLDER.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(root)
        debian_package(root)
        binary.chmod(0o755)
    return binary, folders


def debian_package(root):
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise Skip("libb64 is taken from a Debian package, and apt-get or dpkg is missing")
    if not list(FOLDER.glob("libb64*.deb")):
        download(["apt-get", "download", DEBIAN_PACKAGE])
    subprocess.run(["dpkg", "-x", next(FOLDER.glob("libb64*.deb")), root], check=True)


def download(command):
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"`{' '.join(command[:4])} …` failed: {done.stderr.strip()[-300:]}")


def available():
    try:
        return fetch()
    except Unavailable as error:
        if os.environ.get("CI", "") not in ("", "0", "false"):
            raise
        raise Skip(str(error)) from None


def analyze(daemon, model, mode, requests, shared_memory=False):
    """One run to its end. Throughput is looked at only for being there: this is no benchmark."""
    binary, folders = available()
    if model == MOBILENET and not mobilenet().exists():
        raise Skip(f"{mobilenet()} does not exist; DIOLKOS_TEST_MODELS names another folder")
    run = f"{model}-{mode}{'-shm' if shared_memory else ''}"
    report = FOLDER / f"{run}.csv"
    report.unlink(missing_ok=True)
    url = {"http": daemon.address, "grpc": daemon.address, "grpc-unix": f"unix:{daemon.unix}"}[mode]
    command = [str(binary), "-m", model, "-u", url, "-i", mode.partition("-")[0], "-b", "1"]
    command += [word for shape in open_shapes(daemon, model) for word in ("--shape", shape)]
    # Windows end by the number of requests, so that a slow machine has some in each of them. The spread that
    # counts as stable is so wide that the shortest measurement, three windows, always is.
    command += ["--measurement-mode", "count_windows", "--measurement-request-count", str(requests)]
    command += ["--stability-percentage", "999", "--max-trials", "5"]
    command += ["--concurrency-range", "1:2", "-f", str(report)]
    if shared_memory:
        command += ["--shared-memory", "system"]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, folders))},
    )
    (FOLDER / f"{run}.log").write_text(done.stdout)
    tail = " / ".join(line for line in done.stdout.splitlines()[-8:] if line)
    if done.returncode:
        raise AssertionError(f"it ended with status {done.returncode}: {tail}")
    says(done.stdout, "Inferences/Second vs. Client", "Concurrency: 2, throughput:")
    for word in ("Failed", "failed", "error", "warning"):
        if found := [line for line in done.stdout.splitlines() if word in line]:
            raise AssertionError(f"it says: {found[0]}")
    # They come in the order of their throughput.
    rows = sorted(csv.DictReader(report.read_text().splitlines()), key=lambda row: int(row["Concurrency"]))
    if [row["Concurrency"] for row in rows] != ["1", "2"]:
        raise AssertionError(f"its report has rows for {[row['Concurrency'] for row in rows]}")
    rates = [float(row["Inferences/Second"]) for row in rows]
    if not all(rate > 0 for rate in rates):
        raise AssertionError(f"its report says {rates} inferences a second")
    return " and ".join(f"{rate:.0f}/s" for rate in rates) + " at concurrency 1 and 2 (debug build)"


def open_shapes(daemon, model):
    """Lengths of one for open dimensions, as perf_analyzer wants them from whoever has no max_batch_size."""
    if json.loads(daemon.get(f"/v2/models/{model}/config")[2])["max_batch_size"]:
        return
    for tensor in json.loads(daemon.get(f"/v2/models/{model}")[2])["inputs"]:
        yield f"{tensor['name']}:{','.join(str(max(length, 1)) for length in tensor['shape'])}"


def mobilenet():
    return MODELS / f"{MOBILENET}.onnx"


def failures(daemon, model):
    """What the daemon itself counted."""
    status, _, body = daemon.get(f"/v2/models/{model}/stats")
    (stats,) = json.loads(body)["model_stats"]
    success, fail = (int(stats["inference_stats"][key]["count"]) for key in ("success", "fail"))
    if status != 200 or fail or not success:
        raise AssertionError(f"the daemon counted {success} successes and {fail} failures")
    return f"the daemon counted {success} requests and no failure"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10, help="requests in one measurement, at least (10)")
    requests = parser.parse_args().requests
    checks = Checks()
    files = [mobilenet()] if mobilenet().exists() else []
    with Daemon(models=[DIGITS / "models"], files=files, log_name="perf-analyzer") as daemon:
        for model in ("digits", MOBILENET):
            before = checks.passed
            for mode in ("http", "grpc", "grpc-unix"):
                checks.run(f"perf_analyzer {model} {mode}", analyze, daemon, model, mode, requests)
                checks.run(f"perf_analyzer {model} {mode} shared memory", analyze, daemon, model, mode, requests, True)
            if checks.passed > before:
                checks.run(f"perf_analyzer {model}: errors", failures, daemon, model)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
