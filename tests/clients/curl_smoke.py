# SPDX-License-Identifier: Apache-2.0
"""REST over a unix socket, by stock curl: `python curl_smoke.py --tcp HOST:PORT --unix PATH`."""

import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from harness import Checks, Skip, digit_images, same, says, smoke_arguments

X = np.arange(8, dtype=np.float32).reshape(2, 4)


class Curl:
    def __init__(self, socket):
        self.socket = socket
        self.folder = Path(tempfile.mkdtemp(prefix="diolkos-curl-"))

    def call(self, path, *options, body=None):
        """Status and body. The body to send goes through a file, as a person would do it."""
        out = self.folder / "out"
        command = ["curl", "--silent", "--show-error", "--max-time", "60", "--unix-socket", self.socket]
        command += ["--output", str(out), "--write-out", "%{http_code}"]
        if body is not None:
            sent = self.folder / "body"
            sent.write_bytes(body)
            command += ["--data-binary", f"@{sent}"]
        done = subprocess.run([*command, *options, f"http://localhost{path}"], capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"curl ended with {done.returncode}: {done.stderr.strip()}")
        return int(done.stdout), out.read_bytes()

    def get(self, path):
        status, body = self.call(path)
        same(status, 200, f"the status of {path}")
        return json.loads(body)

    def health(self):
        assert self.get("/v2/health/live")
        assert self.get("/v2/health/ready")
        same(self.get("/v2/models/digits/ready")["ready"], True, "ready")

    def metadata(self):
        same(self.get("/v2")["name"], "diolkos", "name")
        same(self.get("/v2/models/affine")["inputs"][0]["name"], "x", "input")
        same(self.get("/v2/models/affine/versions/1")["versions"], ["1"], "versions")
        same(self.get("/v2/models/digits/config")["max_batch_size"], 64, "max_batch_size")
        assert self.get("/v2/models/digits/stats")["model_stats"]
        status, body = self.call("/v2/repository/index", "--request", "POST")
        same(status, 200, "status")
        assert "digits" in {entry["name"] for entry in json.loads(body)}

    def infer_json(self):
        request = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": X.tolist()}]}
        status, body = self.call("/v2/models/affine/infer", body=json.dumps(request).encode())
        same(status, 200, f"the status of {body!r}")
        (output,) = json.loads(body)["outputs"]
        same(np.array(output["data"], np.float32).reshape(output["shape"]), X * 2 + 1, "y")

    def infer_gzip(self):
        request = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": X.ravel().tolist()}]}
        body = gzip.compress(json.dumps(request).encode())
        options = ("--header", "Content-Encoding: gzip", "--compressed")
        status, body = self.call("/v2/models/affine/infer", *options, body=body)
        same(status, 200, f"the status of {body!r}")
        (output,) = json.loads(body)["outputs"]
        same(np.array(output["data"], np.float32).reshape(output["shape"]), X * 2 + 1, "y")

    def infer_binary(self):
        images, expected = digit_images()
        header = {
            "inputs": [
                {
                    "name": "image",
                    "shape": list(images.shape),
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": images.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
        header = json.dumps(header).encode()
        options = ("--header", f"Inference-Header-Content-Length: {len(header)}")
        options += ("--header", "Content-Type: application/octet-stream")
        status, body = self.call("/v2/models/digits/infer", *options, body=header + images.tobytes())
        same(status, 200, f"the status of {body[:200]!r}")
        probabilities = np.frombuffer(body[-len(expected) * 40 :], np.float32).reshape(-1, 10)
        same(probabilities.argmax(1).tolist(), [entry["predicted"] for entry in expected], "digits")

    def error(self):
        status, body = self.call("/v2/models/nobody/infer", body=b'{"inputs":[]}')
        same(status, 404, "status")
        says(json.loads(body)["error"], "nobody")


def main():
    arguments = smoke_arguments(__doc__.splitlines()[0])
    checks = Checks()
    curl = Curl(arguments.unix)
    for name in ("health", "metadata", "infer_json", "infer_gzip", "infer_binary", "error"):
        check = getattr(curl, name)
        checks.run(f"curl over a unix socket: {name.replace('_', ' ')}", check if shutil.which("curl") else missing)
    shutil.rmtree(curl.folder)
    return checks.finish()


def missing():
    raise Skip("curl is not installed")


if __name__ == "__main__":
    sys.exit(main())
