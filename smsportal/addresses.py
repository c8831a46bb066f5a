"""Where a request comes from."""

import ipaddress

from django.conf import settings
from django.http import HttpRequest

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

NOWHERE = "0.0.0.0"  # noqa: S104  # what a Unix socket has for an address; nothing listens here


def proved_address(request: HttpRequest) -> IPAddress | None:
    """The client's IP address, as the outermost of TRUSTED_PROXIES saw it; None when they do not tell.

    Each proxy adds, at the right of X-Forwarded-For, whom it was asked by. What stands further left anybody may have
    written, and with no trusted proxy all of it. With too few entries the request came past one of the proxies.
    """
    trusted: int = settings.TRUSTED_PROXIES
    if not trusted:
        return _parsed(request.META.get("REMOTE_ADDR", ""))
    hops = request.headers.get("X-Forwarded-For", "").split(",")
    return _parsed(hops[-trusted].strip()) if trusted <= len(hops) else None


def _parsed(text: str) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address  # ::ffff:192.0.2.1 is the same place as 192.0.2.1


def client_address(request: HttpRequest) -> str:
    """The same for counting, where nobody may do without one: at worst, that of whoever is connected."""
    return str(proved_address(request) or _parsed(request.META.get("REMOTE_ADDR", "")) or NOWHERE)


def client_network(request: HttpRequest) -> str:
    """The same for counting: of IPv6 the /64, since whoever has one address of it has all."""
    address = client_address(request)
    if ":" not in address:
        return address
    return str(ipaddress.ip_network(f"{address.split('%')[0]}/64", strict=False).network_address)
