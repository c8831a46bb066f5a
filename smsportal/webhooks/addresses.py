"""Which addresses may be called for strangers: public ones, so that nobody uses us to reach what is ours.

Asked when an address is given, and again of the very IP address that is connected to.
"""

import ipaddress
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError

from smsportal.calls.connections import look_up

MAX_LENGTH = 2000
LOOK_UP_S = 3.0  # a name server of a stranger's own must not hold a thread of ours
PORTS = {None, 80, 443, 8080, 8443}
# Networks that carry an IPv4 address inside an IPv6 one, which may be anything.
_CARRIERS = [
    ipaddress.ip_network(network) for network in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
]


def may_connect(address: str) -> bool:
    """Whether an IP address is a public host's, or everything is allowed (WEBHOOKS_TO_PRIVATE_ADDRESSES)."""
    return settings.WEBHOOKS_TO_PRIVATE_ADDRESSES or is_public(address)


def is_public(address: str) -> bool:
    """Whether it is the address of a host that anybody can reach: not loopback, private, shared, link-local, ..."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        elif any(ip in network for network in _CARRIERS) or ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def clean_url(url: str) -> str:
    """A webhook's address that may be called. Raises ValidationError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _invalid("This is no address.") from None
    if len(url) > MAX_LENGTH or not url.isascii() or not url.isprintable() or " " in url:
        raise _invalid(f"Must be at most {MAX_LENGTH} printable ASCII characters, without spaces.")
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise _invalid("Must begin with https:// and name a host.")
    if parts.username is not None or parts.password is not None:
        raise _invalid("Must hold no user name and no password.")
    if parts.fragment:
        raise _invalid("Must hold no part after a #.")
    if not settings.WEBHOOKS_TO_PRIVATE_ADDRESSES:
        if parts.scheme != "https":
            raise _invalid("Must begin with https://: what is told is nobody else's business.")
        if port not in PORTS:
            raise _invalid(f"May use only the ports {', '.join(str(one) for one in sorted(filter(None, PORTS)))}.")
    _refuse_private(parts.hostname, port or 443)
    return url


def _refuse_private(host: str, port: int) -> None:
    try:
        found = look_up(host, port, LOOK_UP_S)
    except (OSError, UnicodeError):
        raise _invalid("The host's name cannot be resolved.") from None
    if not all(may_connect(str(one[4][0])) for one in found):
        raise _invalid("The host is not a public one.")


def _invalid(sentence: str) -> ValidationError:
    return ValidationError(sentence, code="invalid_url")
