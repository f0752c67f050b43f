# SPDX-License-Identifier: Apache-2.0
"""Killed after each change of a file, and in the middle of a transfer.

An image is in the SR or in Glance as a whole or not at all, and the next call leaves
nothing of the one that was killed.
"""

import signal
import time
import uuid
from pathlib import Path

import pytest

from tests.dom0 import archives, chain_reader, glance_server, scratch_host
from tests.dom0.image_server import Answer
from tests.dom0.test_upload import put, state
from tests.dom0.vhd_files import chain

DYING = Path(__file__).with_name("dying.py")
DISKS = chain(1, 2)
IMAGE = archives.image(DISKS, compress=False)
AT_ONCE = 8


@pytest.fixture
def glance():
    server = glance_server.GlanceServer()
    yield server
    server.close()


def die(host, number, fn, request):
    """Start a call that dies after its number-th change."""
    plugin = str(host.dom0.plugins / "glance")
    return host.start(str(DYING), str(number), plugin, host.document(fn, request))


def ended(process):
    """Wait; return whether it was killed before it could answer."""
    out, err = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL), err
    if process.returncode == 0:
        scratch_host.answer(out)
    return process.returncode != 0


def down(host, images):
    identity = str(uuid.uuid4())
    return {
        "image_id": identity,
        "urls": [images.url + "/image"],
        "headers": {},
        "sr_path": host.sr_path,
        "uuid_stack": [str(uuid.uuid4()) for _ in range(2)],
        "checksum": None,
        "verify": {"insecure": False},
    }


def up(host, glance, image, uuids):
    return {
        "image_id": image.identity,
        "urls": [f"{glance.url}/v2/images/{image.identity}"],
        "headers": {},
        "sr_path": host.sr_path,
        "vdi_uuids": uuids,
        "properties": {},
        "verify": {"insecure": False},
    }


def test_a_download_killed_after_any_change(old_host, images):
    images.answers["/image"] = Answer(IMAGE)
    number = killed = 0
    alive = True
    while alive:
        calls = []
        for _ in range(AT_ONCE):
            number += 1
            request = down(old_host, images)
            calls.append((die(old_host, number, "download_vhd", request), request))
        for process, _request in calls:
            if ended(process):
                killed += 1
            else:
                alive = False
        last = down(old_host, images)
        old_host.call("glance", "download_vhd", last)
        expected = []
        for _process, request in [*calls, (None, last)]:
            leaf = old_host.sr / (request["uuid_stack"][-1] + ".vhd")
            if leaf.exists():
                # In place before it was killed: a whole chain then.
                assert [1, 2] == chain_reader.first_bytes(leaf)
                expected += [uuid + ".vhd" for uuid in request["uuid_stack"]]
        assert sorted(expected) == old_host.left()
        for name in old_host.left():
            (old_host.sr / name).unlink()
    assert killed >= 10


def test_an_upload_killed_after_any_change(old_host, glance):
    uuids = put(old_host, DISKS)
    before = state(old_host)
    number = killed = 0
    alive = True
    while alive:
        calls = []
        for _ in range(AT_ONCE):
            number += 1
            image = glance.image()
            request = up(old_host, glance, image, uuids)
            calls.append((die(old_host, number, "upload_vhd", request), image))
        for process, image in calls:
            if ended(process):
                killed += 1
            else:
                alive = False
            assert image.status in ("queued", "active")
            assert (image.status == "active") == (image.data is not None)
        image = glance.image()
        old_host.call("glance", "upload_vhd", up(old_host, glance, image, uuids))
        assert before == state(old_host)
    assert killed >= 5


def test_an_upload_killed_on_the_way_is_never_accepted(old_host, glance):
    uuids = put(old_host, DISKS)
    image = glance.image()
    glance.slow = 0.2
    process = old_host.start_call(
        "glance", "upload_vhd", up(old_host, glance, image, uuids)
    )
    deadline = time.monotonic() + 30
    while image.status != "saving":
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=30)
    while image.status == "saving":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ("queued", None) == (image.status, image.data)
    glance.slow = 0
    old_host.call("glance", "upload_vhd", up(old_host, glance, image, uuids))
    assert image.status == "active"
    assert sorted(f"{name}.vhd" for name in uuids) == old_host.left()
