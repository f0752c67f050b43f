# SPDX-License-Identifier: Apache-2.0
"""Uploads through Nova's own image client, to an image service that fails."""

import types

import glanceclient
import nova.conf
import pytest
from nova.image import glance

from tests.dom0.glance_server import GlanceServer, Trouble
from xenapi_driver import exceptions
from xenapi_driver.images import source
from xenapi_driver.images.upload_body import UploadBody

PIECES = [bytes([number]) * 70_000 for number in range(1, 40)]
WHOLE = b"".join(PIECES)


@pytest.fixture
def service():
    server = GlanceServer()
    yield server
    server.close()


@pytest.fixture
def target(service, monkeypatch):
    """An image that waits for its data, through Nova's client with its retries."""

    def client(wrapper, context, version):
        wrapper.api_server = service.url
        return glanceclient.Client("2", service.url, token="a-token")

    monkeypatch.setattr(glance.GlanceClientWrapper, "_create_onetime_client", client)
    monkeypatch.setattr(
        glance, "time", types.SimpleNamespace(sleep=lambda seconds: None)
    )
    nova.conf.CONF([], project="nova", default_config_files=[], default_config_dirs=[])
    context = types.SimpleNamespace(auth_token="a-token")
    monkeypatch.setattr(source, "_servers", lambda context: ())
    # Of its own fields and schema this service knows nothing.
    monkeypatch.setattr(glance, "_translate_from_glance", lambda image: dict(image))
    image = service.image()

    def update(controller, image_id, remove_props=None, **fields):
        return None

    kind = "glanceclient.v2.images.Controller"
    monkeypatch.setattr(f"{kind}.update", update)
    monkeypatch.setattr(
        f"{kind}.get", lambda controller, image_id: {"size": len(image.data or b"")}
    )
    return image, source.open_target(context, image.identity, {})


def test_nova_s_client_takes_the_pieces(target):
    image, waiting = target
    waiting.give(iter(PIECES), "raw", "tgz")
    assert image.data == WHOLE


def test_an_upload_that_broke_is_not_gone_on_with(target, service):
    image, waiting = target
    service.troubles = [Trouble(after=100_000, hang_up=True)]
    image_id = image.identity
    with pytest.raises(exceptions.TransferFailed, match=f"{image_id} could not be"):
        waiting.give(iter(PIECES), "raw", "tgz")
    assert not image.data and image.status != "active"


@pytest.mark.parametrize("kind", [OSError, ValueError])
def test_a_source_that_fails_stores_nothing(target, kind):
    image, waiting = target

    def failing():
        yield from PIECES
        raise kind("the device is gone")

    with pytest.raises((exceptions.TransferFailed, kind)):
        waiting.give(failing(), "raw", "tgz")
    assert not image.data and image.status != "active"


def test_an_image_service_that_has_less_is_found_out(target, monkeypatch):
    image, waiting = target
    monkeypatch.setattr(
        "glanceclient.v2.images.Controller.get",
        lambda controller, image_id: {"size": len(WHOLE) - 1},
    )
    with pytest.raises(exceptions.TransferFailed, match=f"of {len(WHOLE)} bytes"):
        waiting.give(iter(PIECES), "raw", "tgz")
    assert image.data == WHOLE


def test_a_service_that_did_not_answer_at_first_gets_all(target, service, monkeypatch):
    image, waiting = target
    upload = glanceclient.v2.images.Controller.upload
    tried = []

    def refused_once(controller, image_id, data, **more):
        tried.append(image_id)
        if len(tried) == 1:
            raise glanceclient.exc.CommunicationError("refused")
        return upload(controller, image_id, data, **more)

    monkeypatch.setattr("glanceclient.v2.images.Controller.upload", refused_once)
    waiting.give(iter(PIECES), "raw", "tgz")
    assert image.data == WHOLE and len(tried) == 2


def test_no_part_is_larger_than_a_glance_under_uwsgi_takes():
    body = UploadBody("id", [bytes(3 * 2**20), b"end"])
    parts = iter(lambda: body.read(2**20), b"")  # as glanceclient asks
    sizes = [len(part) for part in parts]
    assert sum(sizes) == body.given == 3 * 2**20 + 3
    assert max(sizes) <= 2**19
