# SPDX-License-Identifier: Apache-2.0
"""The one exception with which a plugin refuses or gives up.

``Failure.code`` and ``Failure.params`` reach the caller as XAPI's ErrorDescription.
Codes, and what their parameters are:

============================== ====================================================
AGENT_FAILED                   command, the guest's return code, its message
AGENT_LACKS                    command that the guest's agent does not know
AGENT_REBOOTED                 domain id that is gone
AGENT_TIMEOUT                  command, seconds
BAD_ARGUMENT                   name of the argument, what is wrong with it
BUSY                           what another call is at work on
CHECKSUM_MISMATCH              algorithm, expected, found; the caller may try again
COMMAND_FAILED                 what was done, the system's reason
COMMAND_MISSING                program that dom0 does not have
IMAGE_CORRUPT                  what is wrong with the image; asking again is no use
IMAGE_NOT_FOUND                image id, what the image service said
IMAGE_TOO_LARGE                bytes allowed, bytes found so far
IMAGE_TRANSFER_FAILED          reason; the caller may try again, or another server
NO_SPACE                       path of the SR or of the folder
NOT_FOUND                      what there is none of
NOT_PERMITTED                  what may not be done, why
NOT_SUPPORTED                  what this host cannot do, why
TIMED_OUT                      what was waited for, seconds
UNKNOWN_XENAPI_PLUGIN_FUNCTION name of the function
XAPI_REFUSED                   method, XAPI's code and its parameters
============================== ====================================================
"""
import errno

AGENT_FAILED = "AGENT_FAILED"
AGENT_LACKS = "AGENT_LACKS"
AGENT_REBOOTED = "AGENT_REBOOTED"
AGENT_TIMEOUT = "AGENT_TIMEOUT"
BAD_ARGUMENT = "BAD_ARGUMENT"
BUSY = "BUSY"
CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
COMMAND_FAILED = "COMMAND_FAILED"
COMMAND_MISSING = "COMMAND_MISSING"
IMAGE_CORRUPT = "IMAGE_CORRUPT"
IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"
IMAGE_TRANSFER_FAILED = "IMAGE_TRANSFER_FAILED"
NO_SPACE = "NO_SPACE"
NOT_FOUND = "NOT_FOUND"
NOT_PERMITTED = "NOT_PERMITTED"
NOT_SUPPORTED = "NOT_SUPPORTED"
TIMED_OUT = "TIMED_OUT"
UNKNOWN_FUNCTION = "UNKNOWN_XENAPI_PLUGIN_FUNCTION"
XAPI_REFUSED = "XAPI_REFUSED"


class Failure(Exception):
    """A plugin's refusal: a code of the table above and its parameters, as text."""

    def __init__(self, code, *params):
        super().__init__(code, *params)
        self.code = code
        self.params = [str(param) for param in params]


def from_os_error(exc, doing, path):
    """Return the Failure that says what the system refused while ``doing``.

    :param path: the SR or the folder that may be full
    """
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(NO_SPACE, path)
    return Failure(COMMAND_FAILED, doing, exc.strerror or exc)
