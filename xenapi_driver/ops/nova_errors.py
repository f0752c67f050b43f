# SPDX-License-Identifier: Apache-2.0
"""From our errors to those by which the compute manager decides what happens next.

By tables: whether a build goes to another host, or ends in an error at once, depends
on nothing but the class of the exception.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from nova import exception as nova_exception

from xenapi_driver import exceptions
from xenapi_driver.xapi import errors


def _no_room(exc: Exception, instance: Any) -> nova_exception.NovaException:
    # Nova ends the sentence itself.
    return nova_exception.ComputeResourcesUnavailable(reason=str(exc).rstrip("."))


def _unusable(exc: Exception, instance: Any) -> nova_exception.NovaException:
    return nova_exception.ImageUnacceptable(
        image_id=getattr(exc, "image_id", instance.image_ref), reason=str(exc)
    )


def _unavailable(exc: Exception, instance: Any) -> nova_exception.NovaException:
    return nova_exception.HypervisorUnavailable(str(exc))


# Ours, to what the compute manager tells apart; the first match counts.
ERROR_TABLE = (
    (
        exceptions.ServerNotFound,
        lambda exc, inst: nova_exception.InstanceNotFound(instance_id=inst.uuid),
    ),
    (
        exceptions.ServerExists,
        lambda exc, inst: nova_exception.InstanceExists(name=exc.name),
    ),
    (exceptions.NotEnoughMemory, _no_room),
    (errors.HostNotEnoughFreeMemory, _no_room),
    (errors.SrFull, _no_room),
    (
        exceptions.NetworkingFailed,
        lambda exc, inst: nova_exception.VirtualInterfaceCreateException(str(exc)),
    ),
    (
        exceptions.ImageGone,
        lambda exc, inst: nova_exception.ImageNotFound(image_id=exc.image_id),
    ),
    (
        exceptions.ImageTooLarge,
        lambda exc, inst: nova_exception.FlavorDiskTooSmall(str(exc)),
    ),
    (exceptions.ImageUnusable, _unusable),
    # Never to be taken for a server that is gone or halted.
    (errors.HostUnreachable, _unavailable),
    (errors.ConnectionLost, _unavailable),
    (errors.EventsLate, _unavailable),
    (
        exceptions.QuiesceImpossible,
        lambda exc, inst: nova_exception.InstanceQuiesceNotSupported(str(exc)),
    ),
    (
        exceptions.StopFailed,
        lambda exc, inst: nova_exception.InstancePowerOffFailure(reason=str(exc)),
    ),
)


# What only a build has other hosts for, or ends with: no snapshot lacks resources.
BUILD_TABLE = (
    (exceptions.UnfitHost, _no_room),
    (
        exceptions.NotSupportedYet,
        lambda exc, inst: nova_exception.BuildAbortException(
            instance_uuid=inst.uuid, reason=str(exc)
        ),
    ),
)


def building(reason: str) -> nova_exception.NovaException:
    return nova_exception.InstanceDeployFailure(reason=reason)


def stopping(reason: str) -> nova_exception.NovaException:
    return nova_exception.InstancePowerOffFailure(reason=reason)


def starting(reason: str) -> nova_exception.NovaException:
    return nova_exception.InstancePowerOnFailure(reason=reason)


@contextlib.contextmanager
def translated(
    instance: Any,
    other: Callable[[str], nova_exception.NovaException] = nova_exception.NovaException,
) -> Iterator[None]:
    """Turn our errors into Nova's, by ``ERROR_TABLE``, in builds ``BUILD_TABLE`` too.

    :param other: makes the error for what the table does not tell apart
    """
    try:
        yield
    except (exceptions.DriverError, errors.XapiError) as exc:
        table = ERROR_TABLE + (BUILD_TABLE if other is building else ())
        for kind, translate in table:
            if isinstance(exc, kind):
                raise translate(exc, instance) from exc
        # A build must not take this for a server that was deleted meanwhile.
        if _vm_vanished(exc) and other is not building:
            raise nova_exception.InstanceNotFound(instance_id=instance.uuid) from exc
        raise other(str(exc)) from exc


def _vm_vanished(exc: Exception) -> bool:
    return isinstance(exc, errors.HandleInvalid) and exc.params[:1] == ("VM",)
