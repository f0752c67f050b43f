# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver images``: what is in a host's image cache, and what is to be."""

from __future__ import annotations

import argparse
import contextlib
import datetime
from collections.abc import Iterable, Iterator, Sequence

from cliff.lister import Lister
from oslo_config import cfg

from xenapi_driver import exceptions
from xenapi_driver.cmd import image_service, nova_configuration, over_xapi
from xenapi_driver.images import cache, entries, handlers, left_overs
from xenapi_driver.ops import image_cache, startup
from xenapi_driver.xapi import errors
from xenapi_driver.xapi.home import Home

MIB = 2**20

Table = tuple[Sequence[str], Iterable[tuple[object, ...]]]


class _OverCache(Lister):
    """What the three commands share: they work on one host's cache."""

    failed = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        nova_configuration.add_options(parser)
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Print the rows; return 1 when something was not done."""
        return super().run(parsed_args) or int(self.failed)


@contextlib.contextmanager
def _opened(parsed_args: argparse.Namespace) -> Iterator[Home]:
    """Log in to the host of the configuration, and find its SR."""
    with over_xapi.session(parsed_args) as (conf, login):
        storage, path = startup.find_storage(conf, login)
        yield Home(session=login, sr_uuid=storage.uuid, sr_path=path, bridge=None)


class List(_OverCache):
    """List the images in the cache of the host that the configuration names.

    ``used``: disks of servers share its blocks. ``busy``: it is being copied.
    ``left-over``: a service was killed over it; nova-compute removes it.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        with _opened(parsed_args) as home:
            found = entries.look(home.session, home.sr)
        columns = ("Image", "VDI", "State", "Size MiB", "Own MiB", "Cached", "Disks")
        return columns, [
            (
                one.image_id,
                one.vdi.uuid,
                "spare" if one.spare else one.state,
                one.vdi.virtual_size // MIB,
                one.vdi.physical_utilisation // MIB,
                _when(one.cached_at),
                len(one.users),
            )
            for one in found
        ]


class Warm(_OverCache):
    """Fetch images into the cache, so that the first build of each needs no download.

    It asks the image service as the user of ``[service_user]``, or of
    ``[placement]`` where the first is not configured.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("images", nargs="+", metavar="IMAGE", help="id of an image")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        rows = []
        with _opened(parsed_args) as home:
            conf, context = image_service.log_in(parsed_args)
            keeper = _keeper(conf, home)
            for image_id in parsed_args.images:
                try:
                    fetched = keeper.warm(context, image_id, self._progress(image_id))
                    rows.append((image_id, "fetched" if fetched else "was cached", ""))
                except (exceptions.DriverError, errors.XapiError) as exc:
                    self.failed = True
                    rows.append((image_id, "failed", str(exc)))
        return ("Image", "State", "Seen"), rows

    def _progress(self, image_id: str) -> image_service.Progress:
        return image_service.Progress(self.app.stderr, image_id)


def _keeper(conf: cfg.ConfigOpts, home: Home) -> image_cache.Keeper:
    """Return what fetches images as nova-compute does.

    :param conf: Nova's own options, as the image client reads them
    """
    name, rules = conf.xenserver.image_handler, startup.transfer_rules(conf)
    place = startup.place(conf, home.session)
    handler = handlers.choose(name, home, rules, place)
    return image_cache.Keeper(home, cache.ImageCache(home), handler)


class Clean(_OverCache):
    """Remove images from the cache; those that servers' disks share blocks with stay.

    No server loses anything, with ``--all`` neither: the host keeps the blocks that
    its disk is based on. The next build downloads the image again.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "images", nargs="*", metavar="IMAGE", help="only these (default: every one)"
        )
        parser.add_argument(
            "--all", action="store_true", help="also those that are used"
        )
        parser.add_argument(
            "--keep-days",
            type=float,
            metavar="DAYS",
            help="keep what was cached less than so long ago, or nobody knows when",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only tell what would be removed"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        choice = image_cache.Choice(
            used_too=parsed_args.all,
            keep_days=parsed_args.keep_days,
            images=tuple(parsed_args.images),
        )
        with _opened(parsed_args) as home:
            rows = [
                (
                    one.image_id,
                    one.vdi.uuid,
                    _when(one.cached_at),
                    one.vdi.physical_utilisation // MIB,
                    self._removed(home, one, parsed_args.dry_run),
                )
                for one in entries.look(home.session, home.sr)
                if choice.takes(one)
            ]
        return ("Image", "VDI", "Cached", "Own MiB", "State"), rows

    def _removed(self, home: Home, entry: entries.Entry, dry_run: bool) -> str:
        if dry_run:
            return "would be removed"
        try:
            if left_overs.remove_entry(home, entry):
                return "removed"
            return "stays: a build has begun to use it"
        except errors.XapiFailure as exc:
            self.failed = True
            return f"stays: {exc}"


def _when(moment: float | None) -> str:
    """Return a time as ISO 8601 has it, in UTC; "" where nobody noted it."""
    if moment is None:
        return ""
    then = datetime.datetime.fromtimestamp(moment, datetime.timezone.utc)
    return then.strftime("%Y-%m-%dT%H:%M:%SZ")
