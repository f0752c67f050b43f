# SPDX-License-Identifier: Apache-2.0
"""Where an image comes from or goes to, as dom0 has to ask for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
from cryptography import exceptions as cryptography_exceptions
from cursive import exception as cursive_exception
from glanceclient import exc as glance_exceptions
from nova import exception as nova_exception
from nova.image import glance

from xenapi_driver import exceptions
from xenapi_driver.images.pushed import Sink
from xenapi_driver.images.upload_body import UploadBody

# Algorithms that every dom0 Python has; Glance's default is sha512.
HASH_ALGORITHMS = ("sha512", "sha384", "sha256", "sha1", "md5")

# As many as the plugin takes.
MOST_SERVERS = 16

# What Nova's client raises for an image that must not be used, and for one that it
# could not read or write; a hash that is wrong is an OSError of glanceclient.
_SPOILT = (
    cryptography_exceptions.InvalidSignature,
    cursive_exception.SignatureVerificationError,
    nova_exception.CertificateValidationFailed,
    nova_exception.ImageUnacceptable,
    nova_exception.ImageBadRequest,
)
_WRONG_SIGNATURE = "its signature is not of what it holds."
_NOT_READ = (
    glance_exceptions.ClientException,
    nova_exception.NovaException,
    requests.RequestException,
    OSError,
)


@dataclass(frozen=True)
class ImageSource:
    """An image and how to read it.

    :ivar image_id: the image's UUID
    :ivar disk_format: Glance's ``disk_format``, such as ``vhd``
    :ivar container_format: Glance's ``container_format``, such as ``ovf``
    :ivar size: bytes that are stored; 0 where Glance does not say
    :ivar virtual_size: bytes of the disk in it; 0 where Glance does not say
    :ivar min_disk_gb: what a flavor's disk must have
    :ivar checksum: ``{"algo", "value"}`` of the stored bytes, or None
    :ivar properties: what is said of it beside, such as ``os_type``
    :ivar headers: request headers that carry the caller's token, for dom0
    :ivar servers: base URLs, the one to ask first at first, for dom0
    :ivar reader: begins to read it through Nova's own client
    :ivar signed: Nova asks for its signature, which only Nova's client can verify
    """

    image_id: str
    disk_format: str | None
    container_format: str | None
    checksum: dict[str, str] | None
    headers: dict[str, str] = field(repr=False)
    servers: tuple[str, ...] = field(repr=False)
    size: int = 0
    virtual_size: int = 0
    min_disk_gb: int = 0
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)
    reader: Callable[[], Iterable[bytes]] | None = field(default=None, repr=False)
    signed: bool = False

    def urls(self) -> list[str]:
        """Return the URL of the image's bytes on each server."""
        return [f"{one}/v2/images/{self.image_id}/file" for one in self.servers]

    def pieces(self) -> Iterator[bytes]:
        """Read the image through Nova's client; each call begins anew.

        The client verifies hash and, where Nova asks for it, signature: only what
        was read to its end is known to be good.

        :raises exceptions.ImageError: one of its kinds
        """
        if self.reader is None:
            raise ValueError("This image was opened for dom0 alone.")
        try:
            yield from self.reader()
        except nova_exception.ImageNotFound as exc:
            raise gone(self.image_id) from exc
        except _SPOILT as exc:
            raise exceptions.ImageUnusable(
                self.image_id,
                f"Image {self.image_id} is not to be used: {exc or _WRONG_SIGNATURE}",
            ) from exc
        except _NOT_READ as exc:
            raise exceptions.TransferFailed(
                self.image_id, f"Image {self.image_id} could not be fetched: {exc}"
            ) from exc


@dataclass(frozen=True)
class Stored:
    """What Glance was given: number of bytes, and their SHA-512 in hex."""

    size: int
    sha512: str


@dataclass(frozen=True)
class ImageTarget:
    """An image that waits for its data, and how to write it.

    :ivar properties: what the image gets beside its formats, such as ``os_type``
    :ivar headers: request headers that carry the caller's token, for dom0
    :ivar servers: base URLs, the one to ask first at first, for dom0
    :ivar writer: gives formats, properties and data through Nova's own client
    """

    image_id: str
    properties: dict[str, str]
    headers: dict[str, str] = field(repr=False)
    servers: tuple[str, ...] = field(repr=False)
    writer: Callable[[dict[str, Any], UploadBody], object] | None = field(
        default=None, repr=False
    )

    def urls(self) -> list[str]:
        """Return the URL of the image itself on each server."""
        return [f"{one}/v2/images/{self.image_id}" for one in self.servers]

    def give(
        self, pieces: Iterable[bytes], disk_format: str, container_format: str
    ) -> Stored:
        """Upload through Nova's client. What raises in ``pieces`` ends the upload.

        :returns: what it was
        :raises exceptions.ImageError: one of its kinds; the image has no data then
        """
        if self.writer is None:
            raise ValueError("This image was opened for dom0 alone.")
        about = {
            "disk_format": disk_format,
            "container_format": container_format,
            "properties": dict(self.properties),
        }
        body = UploadBody(self.image_id, pieces)
        try:
            self.writer(about, body)
        except nova_exception.ImageNotFound as exc:
            raise gone(self.image_id) from exc
        except _NOT_READ as exc:
            raise exceptions.TransferFailed(
                self.image_id, f"Image {self.image_id} could not be stored: {exc}"
            ) from exc
        return Stored(body.given, body.sha512.hexdigest())


def gone(image_id: str) -> exceptions.ImageGone:
    """Return the error of an image that the service does not have."""
    return exceptions.ImageGone(
        image_id, f"The image service does not have image {image_id}."
    )


def open_target(
    context: Any, image_id: str, properties: dict[str, str]
) -> ImageTarget:
    """Return how to write an image that Nova has made; nothing is asked.

    :param context: Nova's request context; its token is what dom0 will use
    """

    def write(about: dict[str, Any], body: UploadBody) -> None:
        told = glance.API().update(
            context, image_id, about, data=body, purge_props=False
        )
        body.check((told or {}).get("size"))

    return ImageTarget(
        image_id, properties, _headers(context), _servers(context), write
    )


def open_image(
    context: Any, image_id: str, trusted_certs: Any = None, signed: bool = False
) -> ImageSource:
    """Look the image up in Glance.

    :param context: Nova's request context; its token is what dom0 will use
    :param trusted_certs: of the server, for the check of the image's signature
    :param signed: Nova's options ask for that check, whatever the server wants
    :raises exceptions.ImageGone: Glance does not have it
    """
    try:
        meta = glance.API().get(context, image_id)
    except nova_exception.ImageNotFound as exc:
        raise gone(image_id) from exc

    signed = signed or bool(trusted_certs)

    def read() -> Iterable[bytes]:
        if signed:
            return Sink().read_from(write)
        return glance.API().download(context, image_id)

    def write(sink: Sink) -> None:
        glance.API().download(
            context, image_id, data=sink, trusted_certs=trusted_certs
        )

    return ImageSource(
        image_id=image_id,
        disk_format=meta.get("disk_format"),
        container_format=meta.get("container_format"),
        checksum=_checksum(meta),
        headers=_headers(context),
        servers=_servers(context),
        size=int(meta.get("size") or 0),
        virtual_size=int(meta.get("virtual_size") or 0),
        min_disk_gb=int(meta.get("min_disk") or 0),
        properties=dict(meta.get("properties") or {}),
        reader=read,
        signed=signed,
    )


def _checksum(meta: dict[str, Any]) -> dict[str, str] | None:
    """Return the strongest hash that Glance gives and dom0 can compute."""
    # Glance's own hash fields may be base properties or not, by client version.
    fields = {**(meta.get("properties") or {}), **meta}
    algo, value = fields.get("os_hash_algo"), fields.get("os_hash_value")
    if algo in HASH_ALGORITHMS and value:
        return {"algo": algo, "value": value}
    if meta.get("checksum"):
        return {"algo": "md5", "value": meta["checksum"]}
    return None


def _headers(context: Any) -> dict[str, str]:
    """Return the identity headers; header values have to be strings."""
    token = getattr(context, "auth_token", None)
    return {"X-Auth-Token": token} if token else {}


def _servers(context: Any) -> tuple[str, ...]:
    """Return the image services that dom0 may ask, each once, in Nova's order."""
    # Nova goes round its own list for ever.
    some = itertools.islice(glance.get_api_servers(context), 4 * MOST_SERVERS)
    return tuple(dict.fromkeys(one.rstrip("/") for one in some))[:MOST_SERVERS]
