# SPDX-License-Identifier: Apache-2.0
"""Bad images and bad servers: the code that is told, and an SR as it was."""

import contextlib
import gzip
import hashlib
import struct
import tarfile
import time
import uuid

import pytest

from tests.dom0 import archives, golden
from tests.dom0.image_server import Answer
from tests.dom0.scratch_host import PluginFailed
from tests.dom0.vhd_files import MADE, MIB, VhdFile, chain

GOOD = archives.image([VhdFile(fill=1)])


@pytest.fixture
def host(old_host):
    """What is refused is refused by every Python; the oldest has the odd errors."""
    return old_host


@pytest.fixture
def refused(host):
    """Return a context in which a call must fail with a code and leave nothing."""

    @contextlib.contextmanager
    def expect(code, *words):
        with pytest.raises(PluginFailed) as caught:
            yield
        assert code == caught.value.code, caught.value
        for word in words:
            assert word in " ".join(caught.value.params)
        assert "secret-token" not in str(caught.value)
        assert host.left() == []

    return expect


def sparse_like(name):
    info, _data = archives.special(name, tarfile.GNUTYPE_SPARSE)
    return info, b""


def lying_size():
    """Return a tar whose one member claims more than there is, and ends."""
    return archives.tar([archives.regular("0.vhd", bytes(VhdFile(fill=1)))])[:100000]


def long_header(kind):
    """Return a tar with an extended header that claims a GiB."""
    info = tarfile.TarInfo("././@LongLink")
    info.type = kind
    info.size = 1024 * MIB
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(2 * MIB)


def negative_size():
    block = bytearray(tarfile.TarInfo("0.vhd").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 12  # base 256: -1
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(10240)


def pax_loop():
    """A pax record of length 0, on which old readers never end."""
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    record = b"0 path=x\n"
    info.size = len(record)
    return info.tobuf(tarfile.GNU_FORMAT) + record.ljust(512, b"\0") + bytes(1024)


DISK = bytes(VhdFile(fill=1))
EVIL = {
    "no archive": b"this is no archive at all" * 100,
    "empty": b"",
    "empty archive": archives.tar([]),
    "only a swap disk": archives.tar([archives.regular("swap.vhd", DISK)]),
    "up": archives.tar([archives.regular("../0.vhd", DISK)]),
    "up and down": archives.tar([archives.regular("x/../../0.vhd", DISK)]),
    "absolute": archives.tar([archives.regular("/tmp/0.vhd", DISK)]),
    "absolute folder": archives.tar([archives.special("/etc", tarfile.DIRTYPE)]),
    "in a folder": archives.tar([archives.regular("a/0.vhd", DISK)]),
    "long name up": archives.tar(
        [archives.regular("../" * 60 + "etc/0.vhd", DISK)], tarfile.GNU_FORMAT
    ),
    "pax name up": archives.tar(
        [archives.regular("../" * 60 + "etc/0.vhd", DISK)], tarfile.PAX_FORMAT
    ),
    "symlink": archives.tar(
        [archives.special("0.vhd", tarfile.SYMTYPE, "/etc/passwd")]
    ),
    "hard link": archives.tar(
        [archives.special("0.vhd", tarfile.LNKTYPE, "/etc/passwd")]
    ),
    "character device": archives.tar([archives.special("0.vhd", tarfile.CHRTYPE)]),
    "block device": archives.tar([archives.special("0.vhd", tarfile.BLKTYPE)]),
    "fifo": archives.tar([archives.special("0.vhd", tarfile.FIFOTYPE)]),
    "sparse": archives.tar([sparse_like("0.vhd")]),
    "twice": archives.tar(
        [archives.regular("0.vhd", DISK), archives.regular("./0.vhd", DISK)]
    ),
    "truncated": lying_size(),
    "truncated gzip": GOOD[: len(GOOD) // 2],
    "damaged gzip": GOOD[:-8] + b"\0\0\0\0" + GOOD[-4:],
    "huge long name": long_header(tarfile.GNUTYPE_LONGNAME),
    "huge pax header": long_header(tarfile.XHDTYPE),
    "negative size": negative_size(),
    "pax of length zero": pax_loop(),
    "many members": archives.tar(
        archives.regular(f"{number}.txt", b"") for number in range(100)
    ),
    "a bomb after the end": gzip.compress(
        archives.tar([archives.regular("0.vhd", DISK)]) + bytes(64 * MIB)
    ),
    "gap": archives.named(dict(zip(["0.vhd", "2.vhd"], chain(1, 2), strict=True))),
    "mixed names": archives.named(
        dict(zip(["snap.vhd", "1.vhd"], chain(1, 2), strict=True))
    ),
    "seventeen disks": archives.image(chain(*[None] * 17)),
    "bottom names a parent": archives.image(chain(1, 2)[:1]),
    "bottom names a parent, its type does not": archives.image(
        [VhdFile(parent=VhdFile(), kind=3)]
    ),
    "bottom names a raw parent": archives.image([golden.read("on-raw")]),
    "leaf has no parent": archives.image([VhdFile(), VhdFile()]),
    "hidden leaf": archives.image([golden.read("hidden")]),
    "footer damaged": archives.image([golden.read("bad-footer-checksum")]),
    "bitmap damaged": archives.image([golden.read("bad-bat")]),
    "footer missing": archives.image([bytes(VhdFile(fill=1))[:-512]]),
    "copy differs": archives.image([bytes(VhdFile())[:512] + DISK[512:]]),
    "block in the header": archives.image([VhdFile(fill=1, table_entry=1)]),
    "block past the end": archives.image([VhdFile(fill=1, table_entry=99999)]),
    "fixed": archives.image([VhdFile(kind=2)]),
    "unknown type": archives.image([VhdFile(kind=77)]),
    "small blocks": archives.image([VhdFile(block_size=4096)]),
    "too large": archives.image([VhdFile(virtual_size=2041 * 1024 * MIB)]),
    "table too small": archives.image(
        [DISK[:512 + 28] + struct.pack(">I", 1) + DISK[512 + 32:]]
    ),
    "short": archives.image([DISK[:512]]),
    "no room for the parent's name": archives.image(
        [VhdFile(parent=VhdFile(), locators=False), VhdFile()]
    ),
}


@pytest.mark.parametrize("name", EVIL)
def test_an_evil_image_is_refused_and_nothing_stays(name, fetch, refused, host):
    before = host.dom0.scratch_files()
    with refused("IMAGE_CORRUPT"):
        fetch(Answer(EVIL[name]))
    assert before == host.dom0.scratch_files()


def test_a_disk_from_the_future_is_refused_with_advice(fetch, refused):
    seconds = int(time.time()) - 946684800 + 86400
    with refused("IMAGE_CORRUPT", "synchronise the clocks"):
        fetch(Answer(archives.image([VhdFile(made=seconds)])))
    assert seconds > MADE


def test_more_bytes_than_allowed_are_refused_before_they_are_written(fetch, refused):
    with refused("IMAGE_TOO_LARGE", str(3 * MIB)):
        fetch(Answer(archives.image(chain(1, 2))), max_bytes=3 * MIB)


def test_a_member_larger_than_the_sr_is_refused_by_its_header(fetch, refused):
    info = tarfile.TarInfo("0.vhd")
    info.size = 2 ** 60
    with refused("NO_SPACE"):
        fetch(Answer(info.tobuf(tarfile.GNU_FORMAT) + bytes(MIB)))


def test_fewer_uuids_than_disks_are_refused(fetch, refused):
    with refused("IMAGE_CORRUPT", "more than 1 VHD files"):
        fetch(
            Answer(archives.image(chain(1, 2))), uuid_stack=[str(uuid.uuid4())]
        )


def test_a_disk_of_the_sr_is_never_overwritten(host, fetch):
    taken = str(uuid.uuid4())
    (host.sr / (taken + ".vhd")).write_bytes(b"somebody's disk")
    with pytest.raises(PluginFailed) as caught:
        fetch(Answer(GOOD), uuid_stack=[taken])
    assert caught.value.code == "BAD_ARGUMENT"
    assert [taken + ".vhd"] == host.left()
    assert (host.sr / (taken + ".vhd")).read_bytes() == b"somebody's disk"


@pytest.mark.parametrize("algorithm", ["md5", "sha256", "sha512"])
def test_a_wrong_checksum_is_told_with_both_values(fetch, refused, algorithm):
    wrong = hashlib.new(algorithm, b"other").hexdigest()
    with refused("CHECKSUM_MISMATCH", algorithm, wrong):
        fetch(Answer(GOOD), checksum={"algo": algorithm, "value": wrong})


def test_the_services_own_md5_counts_where_the_caller_has_none(fetch, refused):
    wrong = hashlib.md5(b"other").hexdigest()
    with refused("CHECKSUM_MISMATCH", wrong):
        fetch(Answer(GOOD, headers={"Content-MD5": wrong}))


def test_data_damaged_on_the_way_can_be_had_again(fetch, refused):
    damaged = GOOD[:2000] + bytes([GOOD[2000] ^ 255]) + GOOD[2001:]
    value = hashlib.sha512(GOOD).hexdigest()
    with refused("CHECKSUM_MISMATCH"):
        fetch(Answer(damaged), checksum={"algo": "sha512", "value": value})


def test_an_image_that_is_bad_at_its_source_is_not_asked_for_again(fetch, refused):
    image = archives.image(chain(1, 2)[:1])
    value = hashlib.sha512(image).hexdigest()
    with refused("IMAGE_CORRUPT"):
        fetch(Answer(image), checksum={"algo": "sha512", "value": value})


@pytest.mark.parametrize(
    "answer",
    [
        Answer(GOOD, stop_after=1000),
        Answer(GOOD, stop_after=len(GOOD) - 1),
        Answer(GOOD, announce=len(GOOD) + 1),
        Answer(GOOD, chunked=True, stop_after=1000),
        Answer(GOOD, length_known=False, stop_after=1000),
        Answer(status=500),
        Answer(status=503),
        Answer(status=502, reason="</value>\x01\x1b[2J" + "x" * 5000),
        Answer(status=401),
        Answer(status=302, headers={"Location": "file:///etc/passwd"}),
        Answer(status=302, headers={"Location": "ftp://127.0.0.1/x"}),
        Answer(status=302, headers={"Location": "http://u:p@127.0.0.1/x"}),
        Answer(status=302, headers={}),
    ],
)
def test_a_broken_transfer_may_be_tried_again(fetch, refused, answer):
    with refused("IMAGE_TRANSFER_FAILED"):
        fetch(answer)


def test_redirects_in_a_circle_end(fetch, refused, images):
    circle = Answer(status=302, headers={"Location": images.url + "/circle"})
    images.answers["/circle"] = circle
    with refused("IMAGE_TRANSFER_FAILED"):
        fetch(circle)
    assert len(images.asked) < 10


def test_the_page_of_a_redirect_is_not_read(fetch, images):
    images.answers["/there"] = Answer(GOOD)
    fetch(Answer(
        b"x" * 1000, status=302, headers={"Location": images.url + "/there"},
        announce=10 ** 12, stall_at=1000,
    ))


@pytest.mark.parametrize("status", [404, 410, 204])
def test_an_image_that_is_not_there_is_not_found(fetch, refused, status):
    with refused("IMAGE_NOT_FOUND", str(status)):
        fetch(Answer(status=status))


def test_no_server_is_a_failed_transfer(host, images, download, refused):
    request = download(urls=["http://127.0.0.1:1/v2/images/x/file"])
    with refused("IMAGE_TRANSFER_FAILED", "127.0.0.1:1"):
        host.call("glance", "download_vhd", request)


class TestTls:
    """The certificate decides, on a real TLS connection."""

    @pytest.fixture
    def secure(self, host, secure_images, download):
        (host.root / "etc/ca.pem").write_bytes(secure_images.ca.read_bytes())
        secure_images.answers["/image"] = Answer(GOOD)

        def run(ca_file=None, insecure=False, url=secure_images.url + "/image"):
            verify = {"ca_file": ca_file, "insecure": insecure}
            return host.call(
                "glance", "download_vhd", download(urls=[url], verify=verify)
            )

        return run

    def test_a_known_authority_is_believed(self, secure):
        assert secure(ca_file="/etc/ca.pem")["bytes"] == len(DISK)

    def test_an_unknown_authority_is_refused(self, secure, refused, secure_images):
        with refused("IMAGE_TRANSFER_FAILED", "CERTIFICATE_VERIFY_FAILED"):
            secure()
        assert secure_images.asked == []

    def test_insecure_has_to_be_said(self, secure):
        assert secure(insecure=True)["bytes"] == len(DISK)

    def test_a_certificate_for_another_name_is_refused(
        self, secure, refused, secure_images, host
    ):
        url = secure_images.url.replace("127.0.0.1", "localhost") + "/image"
        with refused("IMAGE_TRANSFER_FAILED"):
            secure(ca_file="/etc/ca.pem", url=url)
        assert secure_images.asked == []

    def test_a_redirect_out_of_tls_is_refused(
        self, secure, refused, secure_images, images
    ):
        images.answers["/plain"] = Answer(GOOD)
        location = {"Location": images.url + "/plain"}
        secure_images.answers["/image"] = Answer(status=302, headers=location)
        with refused("IMAGE_TRANSFER_FAILED", "https to http"):
            secure(ca_file="/etc/ca.pem")
        assert images.asked == []

    def test_a_ca_file_without_certificates_is_a_bad_argument(
        self, secure, refused, host
    ):
        (host.root / "etc/ca.pem").write_text("nothing")
        with refused("BAD_ARGUMENT", "verify"):
            secure(ca_file="/etc/ca.pem")
