# SPDX-License-Identifier: Apache-2.0
"""Downloads that break: the rest is asked for, elsewhere too, and the whole is good."""

import hashlib
import json
import random
import threading
import time
import uuid

import pytest
from xenapi_dom0 import archive, arguments, download, failures, web

from tests.dom0 import archives, scratch_host
from tests.dom0.image_server import Answer, ImageServer
from tests.dom0.vhd_files import BLOCK, VhdFile

# What does not compress: the image is as long as its disk, and every cut is in it.
DISK = bytearray(bytes(VhdFile(fill=1)))
DISK[4096:4096 + BLOCK - 4096] = random.Random(5).randbytes(BLOCK - 4096)
IMAGE = archives.image([bytes(DISK)])
SHA512 = {"algo": "sha512", "value": hashlib.sha512(IMAGE).hexdigest()}
ETAG = {"ETag": '"an-etag-that-is-no-checksum"'}
DEAD = "http://127.0.0.1:1/v2/images/x/file"


@pytest.fixture
def ask(old_host, images):
    """Return a function that makes a request for an image on some paths."""

    def make(*urls, **changes):
        request = {
            "image_id": str(uuid.uuid4()),
            "urls": [url if ":" in url else images.url + url for url in urls],
            "attempts": 3,
            "headers": {"X-Auth-Token": "secret-token"},
            "sr_path": old_host.sr_path,
            "uuid_stack": [str(uuid.uuid4())],
            "checksum": SHA512,
            "verify": {"ca_file": None, "insecure": False},
        }
        request.update(changes)
        return request

    return make


@pytest.fixture
def get(old_host, ask):
    """Return a function that downloads and looks at the disk."""

    def run(*urls, **changes):
        before = old_host.left()
        said = old_host.call("glance", "download_vhd", ask(*urls, **changes))
        name = said["root"]["uuid"] + ".vhd"
        assert sorted([*before, name]) == old_host.left()
        assert bytes(DISK) == (old_host.sr / name).read_bytes()
        return said

    return run


def asked_ranges(images):
    return [headers.get("Range") for _path, headers in images.asked]


def cut(at, **changes):
    return Answer(IMAGE, stop_after=at, ranges=True, **changes)


WHOLE = Answer(IMAGE, ranges=True)


def test_a_cut_at_any_byte_is_made_good(old_host, images, ask):
    offsets = [0, 1, 2, 10, 500, 513, 65536, 262144, 262145, 1000000,
               len(IMAGE) - 9, len(IMAGE) - 8, len(IMAGE) - 1]
    calls = []
    for offset in offsets:
        images.answers[f"/{offset}"] = [cut(offset), WHOLE]
        request = ask(f"/{offset}")
        calls.append((
            old_host.start_call("glance", "download_vhd", request),
            request["uuid_stack"][0] + ".vhd",
        ))  # fmt: skip
    for process, name in calls:
        out, err = process.communicate(timeout=60)
        assert scratch_host.answer(out)["bytes"] == len(DISK), err
        assert bytes(DISK) == (old_host.sr / name).read_bytes()
    assert sorted(name for _process, name in calls) == old_host.left()
    ranges = {(path, headers.get("Range")) for path, headers in images.asked}
    for offset in offsets[1:]:
        assert (f"/{offset}", f"bytes={offset}-") in ranges


def test_the_rest_comes_from_another_server_by_its_etag(get, images):
    images.answers["/a"] = cut(1000000, headers=ETAG)
    images.answers["/b"] = Answer(IMAGE, ranges=True, headers=ETAG)
    get("/a", "/b", checksum=None)
    first, second = images.asked
    assert ("/a", None) == (first[0], first[1].get("Range"))
    assert ("/b", "bytes=1000000-", ETAG["ETag"]) == (
        second[0], second[1].get("Range"), second[1].get("If-Range")
    )


def test_a_server_without_ranges_begins_anew(get, images):
    images.answers["/a"] = [cut(1000000), Answer(IMAGE)]
    get("/a")
    assert asked_ranges(images) == [None, "bytes=1000000-"]


def test_an_image_that_changed_meanwhile_is_taken_whole(get, images):
    other = archives.image([VhdFile(fill=3)], compress=False)
    old = {"ETag": '"old"'}
    images.answers["/a"] = [
        Answer(other, stop_after=1500000, ranges=True, headers=old),
        Answer(IMAGE, ranges=True, headers=ETAG),
    ]
    get("/a", checksum=None)


def test_without_anything_that_tells_a_mix_nothing_is_mixed(get, images):
    images.answers["/a"] = [cut(1000000), WHOLE]
    get("/a", checksum=None)
    assert asked_ranges(images) == [None, None]


@pytest.mark.parametrize(
    "wrong",
    [
        {"range_of": "bytes 0-9/10"},
        {"range_of": f"bytes 1000000-{len(IMAGE)}/{len(IMAGE) + 1}"},
        {"range_of": f"bytes 1000000-{len(IMAGE) - 2}/{len(IMAGE)}"},
        {"range_of": "items 1-2/3"},
        {"headers": {"ETag": '"other"'}, "careless": True},
    ],
)
def test_a_rest_that_does_not_fit_is_never_used(get, images, wrong):
    images.answers["/a"] = [
        cut(1000000, headers=ETAG if "headers" in wrong else {}),
        Answer(bytes(1000000) + b"x" * (len(IMAGE) - 1000000), ranges=True, **wrong),
        WHOLE,
    ]
    get("/a")
    assert asked_ranges(images) == [None, "bytes=1000000-", None]


def test_a_range_that_cannot_be_satisfied_begins_anew(get, images):
    images.answers["/a"] = [cut(1000000), Answer(status=416), WHOLE]
    get("/a")
    assert asked_ranges(images) == [None, "bytes=1000000-", None]


def test_a_dead_server_and_a_busy_one_among_three(get, images):
    images.answers["/b"] = Answer(status=503)
    images.answers["/c"] = WHOLE
    get(DEAD, "/b", "/c")
    assert ["/b", "/c"] == [path for path, _headers in images.asked]


def test_each_server_is_asked_in_turn_as_often_as_allowed(
    old_host, images, ask
):
    for path in ("/a", "/b"):
        images.answers[path] = Answer(status=503)
    with pytest.raises(scratch_host.PluginFailed) as caught:
        old_host.call("glance", "download_vhd", ask("/a", "/b"))
    assert caught.value.code == "IMAGE_TRANSFER_FAILED"
    assert "503" in caught.value.params[0]
    assert ["/a", "/b", "/a"] == [path for path, _headers in images.asked]
    assert old_host.left() == []


def test_a_server_that_refuses_is_not_asked_again(old_host, images, ask):
    images.answers["/a"] = Answer(status=403)
    with pytest.raises(scratch_host.PluginFailed):
        old_host.call("glance", "download_vhd", ask("/a", "/b"))
    assert ["/a", "/b"] == [path for path, _headers in images.asked]


def test_a_wrong_checksum_here_is_a_right_one_there(get, images):
    images.answers["/a"] = Answer(archives.image([VhdFile(fill=9)]), ranges=True)
    images.answers["/b"] = WHOLE
    get("/a", "/b")
    assert asked_ranges(images) == [None, None]


# Named, for the image's length is another in each process.
@pytest.mark.parametrize(
    "at", [100, 1000000, len(IMAGE) - 20], ids=["begin", "middle", "end"]
)
def test_damage_on_the_way_is_asked_for_again(get, images, at):
    damaged = IMAGE[:at] + bytes([IMAGE[at] ^ 0xFF]) + IMAGE[at + 1:]
    images.answers["/a"] = [Answer(damaged), WHOLE]
    get("/a")


def test_a_range_travels_through_a_redirect(get, images):
    there = images.url.replace("127.0.0.1", "localhost") + "/there"
    images.answers["/a"] = Answer(status=302, headers={"Location": there})
    images.answers["/there"] = [cut(1000000), WHOLE]
    get("/a")
    assert [None, "bytes=1000000-"] == [
        headers.get("Range") for path, headers in images.asked if path == "/there"
    ]


def test_a_proxy_of_the_environment_plays_no_part(
    old_host, images, ask, monkeypatch
):
    images.answers["/a"] = WHOLE
    environment = old_host.environment
    monkeypatch.setattr(
        old_host, "environment",
        lambda: {**environment(), "http_proxy": DEAD, "all_proxy": DEAD},
    )
    process = old_host.start_call("glance", "download_vhd", ask("/a"))
    out, _err = process.communicate(timeout=60)
    assert scratch_host.answer(out)["bytes"] == len(DISK)


def test_only_the_allowed_schemes_are_used(old_host, images, secure_images, ask):
    with pytest.raises(scratch_host.PluginFailed) as caught:
        old_host.call("glance", "download_vhd", ask("/a", schemes=["https"]))
    assert ["urls", "has a URL of a scheme that is not allowed"] == caught.value.params
    location = {"Location": secure_images.url + "/a"}
    images.answers["/a"] = Answer(status=302, headers=location)
    with pytest.raises(scratch_host.PluginFailed) as caught:
        old_host.call("glance", "download_vhd", ask("/a", schemes=["http"]))
    assert "redirected to https" in caught.value.params[0]
    assert secure_images.asked == []


def test_how_far_it_is_can_be_read_from_the_callers_task(old_host, images, ask):
    images.answers["/a"] = Answer(IMAGE, pace=(len(IMAGE) // 30, 0.1))
    tasks = old_host.api.xenapi.task
    task = tasks.create("download", "")
    tasks.add_to_other_config(task, "call", "a-label")
    call = threading.Thread(
        target=old_host.call_with,
        args=("glance", "download_vhd",
              {"request": json.dumps(ask("/a")), "call": "a-label"}),
    )  # fmt: skip
    watching = old_host.sim.session()
    watching.xenapi.login_with_password("root", "secret", "1.0", "watch")
    call.start()
    seen = set()
    while call.is_alive():
        seen.add(watching.xenapi.task.get_progress(task))
        call.join(0.05)
    assert len(seen) > 2 and max(seen) < 1.0, seen
    assert len(old_host.left()) == 1


class TestPatience:
    """Inside this process, where the clock can be shortened."""

    @pytest.fixture(autouse=True)
    def short(self, monkeypatch):
        monkeypatch.setattr(web, "TIMEOUT", 0.4)
        monkeypatch.setattr(web, "FIRST_PAUSE", 0.05)

    def through(self, tmp_path, *urls):
        place = web.Place(
            str(uuid.uuid4()), list(urls), {}, arguments.Verify(None, False), 3,
            ("http",),
        )
        checksum = arguments.Checksum("sha512", SHA512["value"])
        limits = archive.Limits(1, None)
        with download.Image(place, checksum, lambda fraction: None) as image:
            return image.through(
                lambda pieces: archive.unpack(pieces, str(tmp_path), limits)
            )

    def test_a_stalled_server_is_left_for_the_next_one(self, images, tmp_path):
        images.answers["/a"] = Answer(IMAGE, stall_at=1000000)
        images.answers["/b"] = WHOLE
        members = self.through(tmp_path, images.url + "/a", images.url + "/b")
        with open(members["0.vhd"], "rb") as disk:
            assert bytes(DISK) == disk.read()
        assert asked_ranges(images)[-1] == "bytes=1000000-"

    @pytest.mark.parametrize(
        "status", [500, 502, 503, 504, 408, 429, 401, 403, 404, 204]
    )
    def test_one_server_of_two_is_enough(self, images, tmp_path, status):
        images.answers["/a"] = Answer(status=status)
        images.answers["/b"] = WHOLE
        assert self.through(tmp_path, images.url + "/a", images.url + "/b")

    def test_slow_bytes_are_waited_for(self, images, tmp_path):
        images.answers["/a"] = Answer(IMAGE, pace=(len(IMAGE) // 10, 0.1))
        assert self.through(tmp_path, images.url + "/a")

    def test_what_comes_byte_by_byte_is_no_transfer(self, images, tmp_path):
        images.answers["/a"] = Answer(IMAGE, pace=(100, 0.01))
        began = time.monotonic()
        with pytest.raises(failures.Failure) as caught:
            self.through(tmp_path, images.url + "/a")
        assert "bytes in 0 s" in caught.value.params[0]
        assert time.monotonic() - began < 20
        assert list(tmp_path.iterdir()) == []

    def test_progress_makes_failures_good(self, tmp_path, monkeypatch):
        monkeypatch.setattr(download, "PROGRESS", 400000)
        server = ImageServer()
        cuts = range(500000, len(IMAGE), 500000)
        server.answers["/a"] = [*(cut(at) for at in cuts), WHOLE]
        assert len(cuts) >= 3
        try:
            assert self.through(tmp_path, server.url + "/a")
        finally:
            server.close()
