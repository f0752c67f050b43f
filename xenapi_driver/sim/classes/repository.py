# SPDX-License-Identifier: Apache-2.0
"""Class Repository: where updates would come from; none can be fetched here."""

import re
from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message

_URL = re.compile(r"https?://[^/\s]+(/\S*)?")
_KEY = re.compile(r"[\w.+-]*")
_BUNDLE = "bundle"


def _require_url(url: str) -> None:
    if not _URL.fullmatch(url):
        raise Failure("INVALID_BASE_URL", url)


def _make(call: Call, **values: Any) -> str:
    """Make a repository; neither its name nor its place may be known already."""
    for ref, row in call.db.rows("Repository"):
        same = row["binary_url"] and row["binary_url"] == values.get("binary_url")
        if same or row["name_label"] == values["name_label"]:
            raise Failure("REPOSITORY_ALREADY_EXISTS", ref)
    return call.db.create("Repository", values)


@message("Repository.introduce")
def introduce(call: Call, *about: Any) -> str:
    """Note a repository on a web server."""
    label, description, binary, source, update, key = about
    for url in (binary, source):
        _require_url(url)
    if not _KEY.fullmatch(key):
        raise Failure("INVALID_GPGKEY_PATH", key)
    return _make(
        call,
        name_label=label,
        name_description=description,
        binary_url=binary,
        source_url=source,
        update=update,
        gpgkey_path=key,
    )


@message("Repository.introduce_bundle")
def introduce_bundle(call: Call, label: str, description: str) -> str:
    """Note the repository that is uploaded as one file; there is one only."""
    for ref in call.db.find("Repository", origin=_BUNDLE):
        raise Failure("BUNDLE_REPOSITORY_ALREADY_EXISTS", ref)
    return _make(
        call,
        name_label=label,
        name_description=description,
        update=True,
        origin=_BUNDLE,
    )


@message("Repository.introduce_remote_pool")
def introduce_remote_pool(
    call: Call, label: str, description: str, url: str, certificate: str
) -> str:
    """Note the repository of another pool."""
    _require_url(url)
    return _make(
        call,
        name_label=label,
        name_description=description,
        binary_url=url,
        update=True,
        origin="remote_pool",
        certificate=certificate,
    )


@message("Repository.forget")
def forget(call: Call, ref: str) -> None:
    """Forget a repository that the pool does not use."""
    for _, row in call.db.rows("pool"):
        if ref in row["repositories"]:
            raise Failure("REPOSITORY_IS_IN_USE")
    call.db.destroy("Repository", ref)


@message("Repository.set_gpgkey_path")
def set_gpgkey_path(call: Call, ref: str, value: str) -> None:
    """Name the file in dom0 that holds the key of the repository."""
    if not _KEY.fullmatch(value):
        raise Failure("INVALID_GPGKEY_PATH", value)
    call.db.update("Repository", ref, gpgkey_path=value)


@message("pool.set_repositories")
def set_repositories(call: Call, pool: str, value: list[str]) -> None:
    """Say which repositories the pool takes its updates from."""
    for ref in value:
        call.db.row("Repository", ref)
    call.db.update("pool", pool, repositories=list(dict.fromkeys(value)))


@message("pool.add_repository")
def add_repository(call: Call, pool: str, ref: str) -> None:
    """Take updates from one more repository."""
    set_repositories(call, pool, [*call.db.row("pool", pool)["repositories"], ref])


@message("pool.remove_repository")
def remove_repository(call: Call, pool: str, ref: str) -> None:
    """Take no more updates from a repository."""
    rest = [one for one in call.db.row("pool", pool)["repositories"] if one != ref]
    call.db.update("pool", pool, repositories=rest)


@message("pool.sync_updates")
def sync_updates(call: Call, pool: str, *options: object) -> str:
    """Refuse: nothing can be fetched from here."""
    if not call.db.row("pool", pool)["repositories"]:
        raise Failure("NO_REPOSITORY_ENABLED")
    raise Failure("REPOSYNC_FAILED")
