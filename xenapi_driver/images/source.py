# SPDX-License-Identifier: Apache-2.0
"""Where an image comes from or goes to, as dom0 has to ask for it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from nova import exception as nova_exception
from nova.image import glance

from xenapi_driver import exceptions

# Algorithms that every dom0 Python has; Glance's default is sha512.
HASH_ALGORITHMS = ("sha512", "sha384", "sha256", "sha1", "md5")

# As many as the plugin takes.
MOST_SERVERS = 16


@dataclass(frozen=True)
class ImageSource:
    """An image and how to read it over HTTP.

    :ivar image_id: the image's UUID
    :ivar disk_format: Glance's ``disk_format``, such as ``vhd``
    :ivar container_format: Glance's ``container_format``, such as ``ovf``
    :ivar checksum: ``{"algo", "value"}`` of the stored bytes, or None
    :ivar headers: request headers that carry the caller's token
    :ivar servers: base URLs, the one to ask first at first
    """

    image_id: str
    disk_format: str | None
    container_format: str | None
    checksum: dict[str, str] | None
    headers: dict[str, str] = field(repr=False)
    servers: tuple[str, ...] = field(repr=False)

    def urls(self) -> list[str]:
        """Return the URL of the image's bytes on each server."""
        return [f"{one}/v2/images/{self.image_id}/file" for one in self.servers]


@dataclass(frozen=True)
class ImageTarget:
    """An image that waits for its data, and how to write it over HTTP.

    :ivar properties: what the image gets beside its formats, such as ``os_type``
    :ivar headers: request headers that carry the caller's token
    :ivar servers: base URLs, the one to ask first at first
    """

    image_id: str
    properties: dict[str, str]
    headers: dict[str, str] = field(repr=False)
    servers: tuple[str, ...] = field(repr=False)

    def urls(self) -> list[str]:
        """Return the URL of the image itself on each server."""
        return [f"{one}/v2/images/{self.image_id}" for one in self.servers]


def open_target(
    context: Any, image_id: str, properties: dict[str, str]
) -> ImageTarget:
    """Return how to write an image that Nova has made; nothing is asked.

    :param context: Nova's request context; its token is what dom0 will use
    """
    return ImageTarget(image_id, properties, _headers(context), _servers(context))


def open_image(context: Any, image_id: str) -> ImageSource:
    """Look the image up in Glance.

    :param context: Nova's request context; its token is what dom0 will use
    :raises exceptions.ImageGone: Glance does not have it
    """
    try:
        meta = glance.API().get(context, image_id)
    except nova_exception.ImageNotFound as exc:
        raise exceptions.ImageGone(
            image_id, f"The image service does not have image {image_id}."
        ) from exc
    return ImageSource(
        image_id=image_id,
        disk_format=meta.get("disk_format"),
        container_format=meta.get("container_format"),
        checksum=_checksum(meta),
        headers=_headers(context),
        servers=_servers(context),
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
