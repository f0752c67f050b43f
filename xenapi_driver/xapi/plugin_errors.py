# SPDX-License-Identifier: Apache-2.0
"""What our dom0 plugins refuse or give up, by the code of their answer::

    PluginError                one of our plugins answered with an error
    +-- PluginBusy             another call is at work on the same thing
    +-- PluginTimedOut         what it waited for did not come
    +-- BadPluginRequest       it does not take such a request: a defect of ours
    +-- NotPermitted           it does not do that, whoever asks
    +-- NotThere               dom0 has no such thing
    +-- Dom0Lacks              a program or an ability that this dom0 has not
    +-- Dom0Failed             a program of dom0, or dom0's XAPI, said no
    +-- Dom0Full               no space in an SR or folder of dom0
    +-- ImageFailed            the image, or its way to or from the image service
    +-- AgentFailed            the guest's agent: its answer
        +-- AgentSilent        it did not answer in time
        +-- AgentLacks         it does not know the command
        +-- AgentRebooted      the guest went away meanwhile

A code of a later version of the plugins stays a plain PluginError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from xenapi_driver.xapi.errors import Advised, PluginError


class _Coded(PluginError):
    """A PluginError of known codes."""

    codes: ClassVar[tuple[str, ...]] = ()


class PluginBusy(_Coded):
    """Another call is at work on it. params: what."""

    codes = ("BUSY",)


class PluginTimedOut(_Coded):
    """What it waited for did not come. params: what, seconds."""

    codes = ("TIMED_OUT",)


class BadPluginRequest(_Coded):
    """It does not take such a request. params: argument, what is wrong with it."""

    codes = ("BAD_ARGUMENT", "UNKNOWN_XENAPI_PLUGIN_FUNCTION")


class NotPermitted(_Coded):
    """It does not do that for anybody. params: what, why."""

    codes = ("NOT_PERMITTED",)


class NotThere(_Coded):
    """Dom0 has no such thing. params: what."""

    codes = ("NOT_FOUND",)


class Dom0Lacks(_Coded):
    """A program or an ability that this dom0 has not. params: which, why."""

    codes = ("COMMAND_MISSING", "NOT_SUPPORTED")


class Dom0Failed(_Coded):
    """A program of dom0, or dom0's XAPI, said no. params: which, its words."""

    codes = ("COMMAND_FAILED", "XAPI_REFUSED")


class Dom0Full(_Coded):
    """There is no space. params: path of the SR or folder."""

    codes = ("NO_SPACE",)


class ImageFailed(_Coded):
    """The image, or its transfer. params: as the plugin ``glance`` says."""

    codes = (
        *("CHECKSUM_MISMATCH", "IMAGE_CORRUPT", "IMAGE_NOT_FOUND"),
        *("IMAGE_TOO_LARGE", "IMAGE_TRANSFER_FAILED"),
    )


class AgentFailed(_Coded):
    """The guest's agent refused. params: command, return code, its message."""

    codes = ("AGENT_FAILED",)


class AgentSilent(AgentFailed):
    """It did not answer in time. params: command, seconds."""

    codes = ("AGENT_TIMEOUT",)


class AgentLacks(AgentFailed):
    """It does not know the command. params: command."""

    codes = ("AGENT_LACKS",)


class AgentRebooted(AgentFailed):
    """The guest went away meanwhile. params: its domain id."""

    codes = ("AGENT_REBOOTED",)


class PluginUnfit(Advised):
    """The plugins are on the host, but do not start there.

    :ivar said: the last line that they said; "" for nothing
    """

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said

    @property
    def seen(self) -> str:
        words = self.said.rstrip(".") or "they said nothing"
        return f"The host's dom0 plugins do not start: {words}"

    @property
    def remedy(self) -> str:
        return (
            "they need Python 3.6 or later as /usr/bin/python3 in dom0, which "
            "XCP-ng 8.3 and XenServer 8 have; use such a host, or look with "
            "xenapi-driver dom0 check"
        )


def _known(kind: type[_Coded]) -> Iterator[tuple[str, type[_Coded]]]:
    for code in kind.codes:
        yield code, kind
    for one in kind.__subclasses__():
        yield from _known(one)


BY_CODE: dict[str, type[_Coded]] = dict(_known(_Coded))


def failure(code: str, params: Sequence[str], call: str) -> PluginError:
    """Return the exception for a plugin's answer.

    :param call: ``<plugin>.<function>``
    """
    return BY_CODE.get(code, PluginError)(code, params, call)
