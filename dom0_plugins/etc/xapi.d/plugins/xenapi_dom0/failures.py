# SPDX-License-Identifier: Apache-2.0
"""The one exception with which a plugin refuses or gives up.

``Failure.code`` and ``Failure.params`` reach the caller as XAPI's ErrorDescription.
Codes, and what their parameters are:

============================== ====================================================
BAD_ARGUMENT                   name of the argument, what is wrong with it
IMAGE_NOT_FOUND                image id, what the image service said
IMAGE_CORRUPT                  what is wrong with the image; asking again is no use
IMAGE_TOO_LARGE                bytes allowed, bytes found so far
IMAGE_TRANSFER_FAILED          reason; the caller may try again, or another server
CHECKSUM_MISMATCH              algorithm, expected, found; the caller may try again
NO_SPACE                       path of the SR
COMMAND_FAILED                 what was done, the system's reason
UNKNOWN_XENAPI_PLUGIN_FUNCTION name of the function
============================== ====================================================
"""
import errno

BAD_ARGUMENT = "BAD_ARGUMENT"
CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
COMMAND_FAILED = "COMMAND_FAILED"
IMAGE_CORRUPT = "IMAGE_CORRUPT"
IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"
IMAGE_TRANSFER_FAILED = "IMAGE_TRANSFER_FAILED"
NO_SPACE = "NO_SPACE"
UNKNOWN_FUNCTION = "UNKNOWN_XENAPI_PLUGIN_FUNCTION"


class Failure(Exception):
    """A plugin's refusal: a code of the table above and its parameters, as text."""

    def __init__(self, code, *params):
        super().__init__(code, *params)
        self.code = code
        self.params = [str(param) for param in params]


def from_os_error(exc, doing, sr_path):
    """Return the Failure that says what the system refused while ``doing``."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(NO_SPACE, sr_path)
    return Failure(COMMAND_FAILED, doing, exc.strerror or exc)
