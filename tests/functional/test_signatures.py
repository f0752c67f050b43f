# SPDX-License-Identifier: Apache-2.0
"""Images whose signature Nova asks for, which Nova's own client verifies."""

from __future__ import annotations

import base64
import datetime
import threading
from unittest import mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cursive import signature_utils
from nova import exception as nova_exception

from tests import builders
from tests.breaking import on_host

HANDLERS = ["direct_vhd", "vdi_remote_stream"]


class Signer:
    """Somebody who signs images, and whose certificate the key manager has."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
        now = datetime.datetime.now()
        day = datetime.timedelta(days=1)
        self.certificate = (
            x509.CertificateBuilder(name, name, self._key.public_key(), 1)
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .sign(self._key, hashes.SHA256())
        )

    def signature(self, data: bytes) -> str:
        """Return the image property that says that we signed it."""
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
        return base64.b64encode(self._key.sign(data, scheme, hashes.SHA256())).decode()


@pytest.fixture(scope="module")
def signer():
    return Signer()


@pytest.fixture(params=HANDLERS)
def rig(request, bare_rig, signer):
    """A rig on which signatures are verified."""
    bare_rig.set_option("image_handler", request.param)
    bare_rig.set_option("verify_glance_signatures", True, "glance")
    bare_rig.start()
    target = "cursive.signature_utils.get_certificate"
    with mock.patch(target, return_value=signer.certificate):
        yield bare_rig


def signed(rig, data: bytes, signature: str | None) -> str:
    """Offer an image with a signature; return its id."""
    image_id = rig.add_image(data)
    properties = rig.records[image_id]["properties"]
    if signature is not None:
        properties.update(
            {
                signature_utils.SIGNATURE: signature,
                signature_utils.HASH_METHOD: "SHA-256",
                signature_utils.KEY_TYPE: "RSA-PSS",
                signature_utils.CERT_UUID: "11111111-2222-3333-4444-555555555555",
            }
        )
    return image_id


def test_an_image_with_a_good_signature_boots(rig, signer, tarball):
    instance = builders.instance(signed(rig, tarball, signer.signature(tarball)))
    rig.spawn(instance)
    (vm,) = rig.host.records("VM", name_label=instance.name)
    assert vm["power_state"] == "Running"


@pytest.mark.parametrize("case", ["of another image", "none", "damaged"])
def test_an_image_without_one_leaves_nothing(rig, signer, tarball, case):
    signatures = {
        "of another image": signer.signature(b"another"),
        "none": None,
        "damaged": "bm90IGEgc2lnbmF0dXJl",
    }
    instance = builders.instance(signed(rig, tarball, signatures[case]))
    before = on_host(rig)
    with (
        rig.recording() as made,
        pytest.raises(nova_exception.ImageUnacceptable, match=instance.image_ref),
    ):
        rig.spawn(instance)
    assert on_host(rig) == before
    assert not [one for one in made if "plugin" in str(one)]
    assert rig.images.served <= 1
    assert not [one for one in threading.enumerate() if "_fill" in one.name]


def test_what_dom0_gets_is_what_was_verified(bare_rig, signer, tarball):
    """A service that gives something else the second time, with a hash that fits."""
    bare_rig.set_option("verify_glance_signatures", True, "glance")
    bare_rig.set_option("num_retries", 0, "glance")
    bare_rig.start()
    other = builders.vhd_tarball(builders.vhd_bytes(bare_rig.folder, 18 * 2**20))
    image_id = signed(bare_rig, tarball, signer.signature(tarball))
    about = builders.image_record(image_id, other)["properties"]
    bare_rig.records[image_id]["properties"].update(about)
    image = bare_rig.images.images[image_id]
    held = property(lambda image: tarball if bare_rig.images.served < 2 else other)
    before = on_host(bare_rig)
    target = "cursive.signature_utils.get_certificate"
    with (
        mock.patch(target, return_value=signer.certificate),
        mock.patch.object(type(image), "data", held, create=True),
        pytest.raises(nova_exception.NovaException, match="sha512"),
    ):
        bare_rig.spawn(builders.instance(image_id))
    assert bare_rig.images.served == 2
    assert on_host(bare_rig) == before
