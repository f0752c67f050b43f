# SPDX-License-Identifier: Apache-2.0
"""Each argument of a request, checked before anything is done with it.

A function takes the request and the argument's name and returns the value, or raises
Failure BAD_ARGUMENT that names the argument. The offending value is never repeated:
it can be a token.
"""
import collections
import ipaddress
import os
import re
import urllib.parse

from xenapi_dom0 import failures, paths

# name to hexadecimal digits
ALGORITHMS = {"md5": 32, "sha1": 40, "sha256": 64, "sha384": 96, "sha512": 128}
MAX_HEADERS = 64
MAX_URLS = 16
MAX_PROPERTIES = 128  # as many as the image service takes, unless configured
MAX_PROPERTY = 65535  # characters
SCHEMES = ("http", "https")
MAX_HEADER_LENGTH = 16 * 1024  # bytes; a Keystone token has some hundred

# RFC 7230, section 3.2: a field name is a token.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}\Z")
# The transfer itself decides these.
_OUR_HEADERS = frozenset(
    ["accept-encoding", "connection", "content-length", "host", "range",
     "te", "trailer", "transfer-encoding", "upgrade"]
)

# linux/if.h: IFNAMSIZ is 16 with its NUL. A leading dash would be an option.
_DEVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
# RFC 1123, section 2.1; an address is one of these forms or has colons.
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")

Checksum = collections.namedtuple("Checksum", "algorithm value")
Verify = collections.namedtuple("Verify", "ca_file insecure")


def _refuse(name, reason):
    raise failures.Failure(failures.BAD_ARGUMENT, name, reason)


def _typed(request, name, kind, called):
    value = request.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        _refuse(name, "is missing or no " + called)
    return value


def require(holds, name, reason):
    """Refuse the argument ``name`` unless the condition holds."""
    if not holds:
        _refuse(name, reason)


def only(request, names):
    """Refuse a request with an argument that the function does not know."""
    for name in request:
        if name not in names:
            _refuse(name, "is not an argument of this function")


def uuid(request, name):
    """Return a UUID in lower case, as XAPI and Glance write them."""
    value = _typed(request, name, str, "text")
    if paths.UUID.match(value) is None:
        _refuse(name, "is no UUID")
    return value


def uuid_list(request, name, at_most):
    """Return a list of 1 to ``at_most`` different UUIDs."""
    values = _typed(request, name, list, "list")
    if not 1 <= len(values) <= at_most:
        _refuse(name, "has not 1 to %d UUIDs" % at_most)
    for value in values:
        if not isinstance(value, str) or paths.UUID.match(value) is None:
            _refuse(name, "holds what is no UUID")
    if len(set(values)) != len(values):
        _refuse(name, "names a UUID twice")
    return values


def url(request, name):
    """Return an http or https URL with a host and without a user or fragment."""
    value = _typed(request, name, str, "text")
    if len(value) > 4096 or re.search(r"[^\x21-\x7e]", value):
        _refuse(name, "is too long or has other than visible ASCII characters")
    if not is_web_url(value):
        _refuse(name, "is no http or https URL of the form scheme://host/path")
    return value


def urls(request, name, schemes):
    """Return a list of 1 to MAX_URLS URLs as :func:`url` takes them.

    :param schemes: the schemes that the caller allows
    """
    values = _typed(request, name, list, "list")
    if not 1 <= len(values) <= MAX_URLS:
        _refuse(name, "has not 1 to %d URLs" % MAX_URLS)
    for value in values:
        url({name: value}, name)
        if urllib.parse.urlsplit(value).scheme not in schemes:
            _refuse(name, "has a URL of a scheme that is not allowed")
    return values


def schemes(request, name):
    """Return the schemes that may be used; both where the caller does not say."""
    if request.get(name) is None:
        return SCHEMES
    values = _typed(request, name, list, "list")
    if not values or any(value not in SCHEMES for value in values):
        _refuse(name, "has none or other schemes than http and https")
    return tuple(values)


def is_web_url(value):
    """Say whether ``value`` is a URL that a download may follow."""
    try:
        parts = urllib.parse.urlsplit(value)
        parts.port  # noqa: B018  reading it is what checks it
    except ValueError:
        return False
    return bool(
        parts.scheme in SCHEMES
        and parts.hostname
        and parts.username is None
        and parts.password is None
        and not parts.fragment
    )


def headers(request, name):
    """Return a dict of HTTP header to value that no value can break out of."""
    value = _typed(request, name, dict, "object")
    if len(value) > MAX_HEADERS:
        _refuse(name, "has more than %d headers" % MAX_HEADERS)
    for field, text in value.items():
        if _TOKEN.match(field) is None or field.lower() in _OUR_HEADERS:
            _refuse(name, "has a header that may not be given")
        if not isinstance(text, str) or len(text) > MAX_HEADER_LENGTH:
            _refuse(name, "has a value that is no text or too long")
        if re.search(r"[^\t\x20-\x7e\xa0-\xff]", text):
            _refuse(name, "has a value with control or non-Latin characters")
    return value


def properties(request, name):
    """Return the properties of an image, a dict of name to text.

    Nobody reads a name with a dash, which is how the retired driver wrote some.
    """
    value = _typed(request, name, dict, "object")
    if len(value) > MAX_PROPERTIES:
        _refuse(name, "has more than %d properties" % MAX_PROPERTIES)
    found = {}
    for key, content in value.items():
        if re.match(r"[A-Za-z0-9_.:-]{1,255}\Z", key) is None:
            _refuse(name, "has a name that no property can have")
        if not isinstance(content, str) or len(content) > MAX_PROPERTY:
            _refuse(name, "has a value that is no text or too long")
        found[key.replace("-", "_")] = content
    return found


def sr_directory(request, name):
    """Return the real path of the SR's directory that the argument names."""
    return paths.sr_directory(_typed(request, name, str, "text"))


def checksum(request, name):
    """Return a Checksum, or None where the caller has none."""
    if request.get(name) is None:
        return None
    value = _typed(request, name, dict, "object")
    algorithm = value.get("algo")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        _refuse(name, "has an algo other than " + ", ".join(sorted(ALGORITHMS)))
    digits = value.get("value")
    pattern = "[0-9a-fA-F]{%d}\\Z" % ALGORITHMS[algorithm]
    if not isinstance(digits, str) or re.match(pattern, digits) is None:
        _refuse(name, "has a value that is no %s in hexadecimal" % algorithm)
    return Checksum(algorithm, digits.lower())


def verify(request, name):
    """Return how to verify a server: Verify(path of a CA file or None, insecure)."""
    value = _typed(request, name, dict, "object")
    insecure = value.get("insecure", False)
    if not isinstance(insecure, bool):
        _refuse(name, "has an insecure that is neither true nor false")
    ca_file = value.get("ca_file")
    if ca_file is None:
        return Verify(None, insecure)
    if not isinstance(ca_file, str) or not os.path.isabs(ca_file):
        _refuse(name, "has a ca_file that is no absolute path")
    real = paths.host_path(ca_file)
    if not paths.is_file(real):
        _refuse(name, "has a ca_file that is no file on this host")
    return Verify(real, insecure)


def optional(request, name, reader, *limits):
    """Return what ``reader`` makes of the argument, or None where it is not given."""
    if request.get(name) is None:
        return None
    return reader(request, name, *limits)


def optional_size(request, name):
    """Return a number of bytes above 0, or None where the caller sets no limit."""
    return optional(request, name, whole, 1, 2 ** 63 - 1)


def whole(request, name, least, most):
    """Return a whole number from ``least`` to ``most``."""
    value = _typed(request, name, int, "whole number")
    if not least <= value <= most:
        _refuse(name, "is no number from %d to %d" % (least, most))
    return value


def flag(request, name, default=None):
    """Return a true or false; ``default`` where it is not given and one is named."""
    value = request.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, bool):
        _refuse(name, "is neither true nor false")
    return value


def text(request, name, longest, empty=False):
    """Return text of up to ``longest`` characters without control characters."""
    value = _typed(request, name, str, "text")
    if len(value) > longest or not (value or empty):
        _refuse(name, "has not 1 to %d characters" % longest)
    # Surrogates come in by JSON's escapes and are no text to write anywhere.
    if re.search("[\x00-\x1f\x7f\ud800-\udfff]", value):
        _refuse(name, "has control characters or halves of characters")
    return value


def choice(request, name, names):
    """Return one of the texts ``names``."""
    value = _typed(request, name, str, "text")
    if value not in names:
        _refuse(name, "is none of: " + ", ".join(sorted(names)))
    return value


def mac(request, name):
    """Return a unicast MAC address in lower case with colons."""
    value = _typed(request, name, str, "text").lower()
    if _MAC.match(value) is None or int(value[:2], 16) & 1:
        _refuse(name, "is no MAC address of one interface")
    return value


def ip(request, name, versions=(4, 6)):
    """Return an IP address, as the ipaddress module makes it."""
    value = _typed(request, name, str, "text")
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        _refuse(name, "is no IP address")
    if address.version not in versions:
        _refuse(name, "is no IPv%d address" % versions[0])
    # From 3.9 on an address may carry a zone, which can hold anything.
    if "%" in value:
        _refuse(name, "has a zone")
    return address


def device_name(request, name):
    """Return the name of a network interface or bridge."""
    value = _typed(request, name, str, "text")
    if _DEVICE.match(value) is None or value in (".", ".."):
        _refuse(name, "is no name of a network device")
    return value


def file_name(request, name):
    """Return a name of a file, without a folder."""
    value = _typed(request, name, str, "text")
    if paths.FILE_NAME.match(value) is None or value in (".", ".."):
        _refuse(name, "is no plain name of a file")
    return value


def host_name(request, name):
    """Return a host name or an IP address, as text."""
    value = _typed(request, name, str, "text")
    if ":" in value:
        return str(ip(request, name))
    if _HOST.match(value) is None:
        _refuse(name, "is neither a host name nor an address")
    return value


def listed(request, name, at_most):
    """Return a list of up to ``at_most`` members of any kind."""
    values = _typed(request, name, list, "list")
    if len(values) > at_most:
        _refuse(name, "has more than %d members" % at_most)
    return values


def reference(request, name):
    """Return a XAPI reference, which is never the null one."""
    value = _typed(request, name, str, "text")
    if re.match(r"OpaqueRef:[0-9a-f-]{36}\Z", value) is None:
        _refuse(name, "is no XAPI reference")
    return value
