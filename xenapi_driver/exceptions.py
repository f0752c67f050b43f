# SPDX-License-Identifier: Apache-2.0
"""What goes wrong above the XAPI layer.

Every message is one sentence for an operator or a tenant: what is wrong, where,
and what to do. ``ops/nova_errors.py`` maps these, and ``xapi/errors.py``'s, to
Nova's in one table::

    DriverError
    +-- UnfitConfiguration    options that cannot work together or on this host
    +-- UnfitHost             the host lacks what the configuration asks for
    +-- NotSupportedYet       a request that this release refuses in words
    +-- ServerExists          a VM of that name is on the host already
    +-- ServerNotFound        the server has no VM on this host
    +-- StopFailed            the server's VM still runs, its removal was not begun
    +-- NotEnoughMemory       the host cannot hold the server now
    +-- QuiesceImpossible     the guest cannot be made to write out what it has
    +-- NetworkingFailed      Neutron did not report the ports as plugged
    +-- ImageError
        +-- ImageGone         the image service does not have it
        +-- ImageUnusable     its content is damaged or of the wrong kind
        +-- ImageTooLarge     it does not fit the flavor's disk
        +-- TransferFailed    it could not be moved, after all retries
            +-- DisksBusy     somebody wrote to the disks that were to be stored
"""


class DriverError(Exception):
    """Base of what the driver itself refuses or gives up.

    :ivar seen: what is wrong and where, without a full stop
    :ivar remedy: what to do about it, likewise; "" where the first says it
    """

    def __init__(self, seen: str, remedy: str = "") -> None:
        super().__init__(f"{seen}: {remedy}." if remedy else seen)
        self.seen = seen
        self.remedy = remedy


class UnfitConfiguration(DriverError):
    """The configuration cannot work; nova-compute does not start."""


class UnfitHost(DriverError):
    """The host lacks something that was asked for."""


class NotSupportedYet(DriverError):
    """A feature that this release does not have."""


class ServerExists(DriverError):
    """A VM with the server's name is on the host.

    :ivar name: its name label
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"A VM named {name} is on the host already.")
        self.name = name


class ServerNotFound(DriverError):
    """The server has no VM on this host."""


class StopFailed(DriverError):
    """The server's VM could not be stopped, so that it still uses its ports."""


class NotEnoughMemory(DriverError):
    """The host has less free memory than the server needs."""


class QuiesceImpossible(DriverError):
    """A snapshot must be quiesced, and the guest cannot be."""


class NetworkingFailed(DriverError):
    """Neutron did not say in time that the ports are plugged."""


class ImageError(DriverError):
    """Base of what is wrong with an image.

    :ivar image_id: the image's UUID
    """

    def __init__(self, image_id: str, message: str) -> None:
        super().__init__(message)
        self.image_id = image_id


class ImageGone(ImageError):
    """The image service does not have the image (any more)."""


class ImageUnusable(ImageError):
    """The image's content cannot become a disk."""


class ImageTooLarge(ImageError):
    """The image's disk is larger than the flavor's."""


class TransferFailed(ImageError):
    """The image could not be moved, after all retries."""


class DisksBusy(TransferFailed):
    """The disks to be stored were written to, or merged, while they were read."""
