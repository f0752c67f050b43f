# SPDX-License-Identifier: Apache-2.0
"""The image service, asked by a command as a user of the configuration."""

from __future__ import annotations

import argparse
from typing import TextIO

import nova.conf
from keystoneauth1 import exceptions as keystone_exceptions
from keystoneauth1 import loading
from nova import context as nova_context
from oslo_config import cfg

from xenapi_driver import conf as options
from xenapi_driver import exceptions
from xenapi_driver.cmd import nova_configuration

# Where nova-compute's configuration has a user of the service's own.
SECTIONS = ("service_user", "placement")


def log_in(
    parsed_args: argparse.Namespace,
) -> tuple[cfg.ConfigOpts, nova_context.RequestContext]:
    """Return Nova's own options, and a context in which images can be read.

    :raises exceptions.UnfitConfiguration: there is no user, or it is refused
    """
    conf = nova.conf.CONF
    options.register_opts(conf)
    given = nova_configuration.arguments(
        parsed_args.config_file, parsed_args.config_dir
    )
    conf(given, project="nova", prog="nova-compute")
    for section in SECTIONS:
        try:
            auth = loading.load_auth_from_conf_options(conf, section)
            if auth is None:
                continue
            session = loading.load_session_from_conf_options(conf, section, auth=auth)
            context = nova_context.RequestContext(
                user_id=session.get_user_id(),
                project_id=session.get_project_id(),
                auth_token=session.get_token(),
                is_admin=True,
                user_auth_plugin=auth,
            )
        except keystone_exceptions.ClientException as exc:
            raise exceptions.UnfitConfiguration(
                f"The user of [{section}] cannot log in to ask the image service "
                f"({exc})",
                f"mend [{section}] in the configuration of nova-compute",
            ) from exc
        return conf, context
    raise exceptions.UnfitConfiguration(
        "The configuration names no user to ask the image service as",
        f"configure [{SECTIONS[0]}], or pass --config-file of nova-compute",
    )


class Progress:
    """Tells how much of an image is in, each tenth, on a terminal or in a log."""

    def __init__(self, stream: TextIO, image_id: str) -> None:
        self._stream = stream
        self._image_id = image_id
        self._told = 0

    def __call__(self, share: float) -> None:
        tenth = int(share * 10)
        if tenth > self._told:
            self._told = tenth
            print(f"Image {self._image_id}: {10 * tenth} %", file=self._stream)
