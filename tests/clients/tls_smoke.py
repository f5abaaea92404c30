# SPDX-License-Identifier: Apache-2.0
"""Stock clients, curl and the command line over TLS: a certificate says who it is, and a token where there is none.

A daemon of its own, with an authority of its own. Without a client's certificate or a token nobody is served, and a client that does
not know the authority does not talk to the daemon.
"""

import hashlib
import os
import secrets
import shutil
import ssl
import subprocess
import sys

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import trustme
from tritonclient.utils import InferenceServerException

from harness import AFFINE, Checks, Daemon, Skip, binary, free_port, near, same, says

SETTINGS = """
listen = [
  {{ address = "tcp:{tls}", tls = {{ certificate = "server.pem", key = "server.pem", client_ca = "ca.pem" }} }},
]
[tenants.web]
certificates = ["dns:web.sandbox"]
leases.all = {{ kind = "compute", models = ["affine"] }}
[tenants.batch]
tokens = ["sha256:{hash}"]
leases.all = {{ kind = "compute", operations = ["echo"] }}
"""
DATA = np.arange(8, dtype=np.float32).reshape(2, 4)


class TlsDaemon(Daemon):
    """It listens where its settings say, and nowhere without TLS."""

    def __init__(self):
        super().__init__(files=[AFFINE], log_name="tls")
        self.tls = f"127.0.0.1:{free_port()}"
        self.token = secrets.token_hex(32)
        authority, other = trustme.CA(), trustme.CA()
        for name, certificate in (
            ("server", authority.issue_cert("127.0.0.1", "localhost")),
            ("web", authority.issue_cert("web.sandbox")),
            ("forged", other.issue_cert("web.sandbox")),
        ):
            certificate.private_key_and_cert_chain_pem.write_to_path(self.file(name))
        authority.cert_pem.write_to_path(self.file("ca"))
        other.cert_pem.write_to_path(self.file("other-ca"))
        hash = hashlib.sha256(self.token.encode()).hexdigest()
        self.config.write_text(SETTINGS.format(tls=self.tls, hash=hash))
        at = self.command.index("--listen")
        del self.command[at : at + 4]

    def is_ready(self):
        client = http_client(self, certificate="web")
        try:
            return client.is_server_ready()
        except OSError:
            return False
        finally:
            client.close()

    def file(self, name):
        return str(self.folder / f"{name}.pem")

    def bytes(self, name):
        return (self.folder / f"{name}.pem").read_bytes()


def http_client(daemon, ca="ca", certificate=None):
    def context():
        context = ssl.create_default_context(cafile=daemon.file(ca))
        if certificate:
            context.load_cert_chain(daemon.file(certificate))
        return context

    return triton_http.InferenceServerClient(daemon.tls, ssl=True, ssl_context_factory=context)


def grpc_client(daemon, ca="ca", certificate=None):
    # The key is one part of the file and the chain the rest; each reader skips what it does not want.
    pem = daemon.bytes(certificate) if certificate else None
    credentials = triton_grpc.grpc.ssl_channel_credentials(daemon.bytes(ca), pem, pem)
    return triton_grpc.InferenceServerClient(daemon.tls, ssl=True, creds=credentials)


def affine(module, client):
    x = module.InferInput("x", [2, 4], "FP32")
    x.set_data_from_numpy(DATA)
    near(client.infer("affine", [x]).as_numpy("y"), DATA * 2 + 1, "y")


def a_certificate_is_a_tenant(daemon, module, connect):
    client = connect(daemon, certificate="web")
    affine(module, client)
    same(client.is_model_ready("affine"), True, "its model")
    same(client.is_model_ready("echo"), False, "another tenant's operation")
    client.close()


def large_tensors_go_both_ways(daemon, module, connect):
    client = connect(daemon)
    headers = {"authorization": f"Bearer {daemon.token}"}
    data = np.random.default_rng(7).integers(0, 2**32, 2 << 20, np.uint32)
    tensor = module.InferInput("data", [data.size], "UINT32")
    tensor.set_data_from_numpy(data)
    same(client.infer("echo", [tensor], headers=headers).as_numpy("data"), data, "data")
    client.close()
    return f"{data.nbytes >> 20} MiB, with a token"


def nobody_is_refused(daemon, module, connect):
    client = connect(daemon)
    try:
        affine(module, client)
    except InferenceServerException as error:
        says(error, "token")
        return str(error)
    finally:
        client.close()
    raise AssertionError("a client that shows nothing was served")


def forged_is_no_connection(daemon, module, connect):
    for wrong in ({"certificate": "forged"}, {"ca": "other-ca"}):
        client = connect(daemon, **wrong)
        try:
            affine(module, client)
        except Exception as error:  # noqa: BLE001 - each client has errors of its own for this
            assert not isinstance(error, AssertionError), error
        else:
            raise AssertionError(f"{wrong} was served")
        finally:
            client.close()


def command_line(daemon, *arguments, certificate="web", ca="ca"):
    environment = {"DIOLKOS_CA": daemon.file(ca), "NO_COLOR": "1"}
    if certificate:
        environment |= {"DIOLKOS_CERTIFICATE": daemon.file(certificate), "DIOLKOS_KEY": daemon.file(certificate)}
    address = daemon.tls.replace("127.0.0.1", "localhost")
    return subprocess.run(
        [str(binary()), *arguments, "--address", f"tls:{address}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def the_command_line(daemon):
    listed = command_line(daemon, "ls")
    if listed.returncode or "affine" not in listed.stdout or "echo" in listed.stdout:
        raise AssertionError(f"{listed.returncode}: {listed.stdout}{listed.stderr}")
    inspected = command_line(daemon, "inspect", "affine", "--json")
    same(inspected.returncode, 0, f"the status of inspect ({inspected.stderr})")
    for wrong, words in (({"certificate": None}, ("token",)), ({"certificate": "forged"}, ()), ({"ca": "other-ca"}, ("certificate",))):
        refused = command_line(daemon, "ls", **wrong)
        assert refused.returncode != 0, f"{wrong} was served: {refused.stdout}"
        says(refused.stderr, *words)


def curl(daemon):
    if not shutil.which("curl"):
        raise Skip("no curl here")
    command = ["curl", "--silent", "--cacert", daemon.file("ca"), "--write-out", " %{http_code}"]
    shown = ["--cert", daemon.file("web"), "--key", daemon.file("web")]
    url = f"https://{daemon.tls.replace('127.0.0.1', 'localhost')}/v2/models/affine"
    done = subprocess.run([*command, *shown, url], capture_output=True, text=True, timeout=60)
    says(done.stdout, '"name":"affine"', " 200")
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=60)
    says(done.stdout, "error", " 401")


def main():
    checks = Checks()
    with TlsDaemon() as daemon:
        for label, module, connect in (("http", triton_http, http_client), ("grpc", triton_grpc, grpc_client)):
            for check in (a_certificate_is_a_tenant, large_tensors_go_both_ways, nobody_is_refused, forged_is_no_connection):
                checks.run(f"tls {label} {check.__name__.replace('_', ' ')}", check, daemon, module, connect)
        checks.run("tls the command line", the_command_line, daemon)
        checks.run("tls curl", curl, daemon)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
