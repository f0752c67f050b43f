# SPDX-License-Identifier: Apache-2.0
"""Fixtures: the scratch host under each Python, image servers, requests."""

import contextlib
import sys
import uuid

import pytest

from tests.dom0 import image_server, interpreters, scratch_host, xenstore_daemons

# For the tests that look into one module of the plugins' library.
sys.path.insert(0, str(scratch_host.PLUGINS))


@pytest.fixture(params=["3.6", "3.12", "current"])
def host(request, tmp_path):
    """A host whose plugins run under a dom0's Python, a newer one, then under ours."""
    with made(tmp_path, request.param) as one:
        yield one


@pytest.fixture
def old_host(tmp_path):
    """The same under a dom0's Python alone, for what no interpreter changes."""
    with made(tmp_path, "3.6") as one:
        yield one


@contextlib.contextmanager
def made(folder, version, **choices):
    """A host in ``folder`` for the length of a ``with``."""
    python = interpreters.wanted(version)
    one = scratch_host.ScratchHost(folder / "host", python, **choices)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(scope="session")
def xenstored():
    """The socket of Xen's own xenstored."""
    require_daemon(ocaml=False)
    with xenstore_daemons.xenstored() as path:
        yield path


@pytest.fixture(scope="session")
def oxenstored():
    """The socket of the xenstored that XenServer and XCP-ng run."""
    require_daemon(ocaml=True)
    with xenstore_daemons.oxenstored() as path:
        yield path


def require_daemon(ocaml):
    """Skip where a xenstored cannot run."""
    absent = xenstore_daemons.missing(ocaml)
    if absent:
        pytest.skip(f"missing: {absent}, for a real xenstored")


@pytest.fixture
def images():
    """An image service without TLS."""
    server = image_server.ImageServer()
    yield server
    server.close()


@pytest.fixture
def secure_images(tmp_path):
    """An image service with a certificate of its own; ``ca`` is its file."""
    cert, key = image_server.certificate(tmp_path, "images", "127.0.0.1")
    server = image_server.ImageServer(image_server.server_context(cert, key))
    server.ca = cert
    yield server
    server.close()


@pytest.fixture
def download(host, images):
    """Return a function that makes a request of download_vhd for an image."""

    def make(**changes):
        image_id = str(uuid.uuid4())
        request = {
            "image_id": image_id,
            "urls": [f"{images.url}/v2/images/{image_id}/file"],
            "headers": {"X-Auth-Token": "secret-token"},
            "sr_path": host.sr_path,
            "uuid_stack": [str(uuid.uuid4()) for _ in range(16)],
            "checksum": None,
            "verify": {"ca_file": None, "insecure": False},
            "max_bytes": None,
        }
        request.update(changes)
        return request

    return make


@pytest.fixture
def fetch(host, images, download):
    """Return a function that serves an answer and has the plugin download it."""

    def run(answer, **changes):
        request = download(**changes)
        images.answers["/v2/images/{}/file".format(request["image_id"])] = answer
        return host.call("glance", "download_vhd", request)

    return run
