# SPDX-License-Identifier: Apache-2.0
"""Fixtures: the scratch host under each Python, image servers, requests."""

import sys
import uuid

import pytest

from tests.dom0 import image_server, interpreters, scratch_host

# For the tests that look into one module of the plugins' library.
sys.path.insert(0, str(scratch_host.PLUGINS))


@pytest.fixture(params=["dom0-python3.6", "current-python"])
def host(request, tmp_path):
    """A scratch dom0 whose plugins run under a dom0's Python, then under ours."""
    python = interpreters.CURRENT
    if request.param == "dom0-python3.6":
        python = interpreters.DOM0_PYTHON
        if python is None:
            message = "NO PYTHON 3.6 HERE: the dom0 plugins run under another one only"
            if interpreters.REQUIRED:
                pytest.fail(message)
            pytest.skip(message)
    return scratch_host.ScratchHost(tmp_path / "dom0", python)


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
            "url": f"{images.url}/v2/images/{image_id}/file",
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
