"""Where a request comes from."""

import ipaddress

from django.conf import settings
from django.http import HttpRequest

NOWHERE = "0.0.0.0"  # noqa: S104  # what a Unix socket has for an address; nothing listens here


def client_address(request: HttpRequest) -> str:
    """The client's IP address, as the outermost of TRUSTED_PROXIES saw it.

    Each proxy adds, at the right of X-Forwarded-For, whom it was asked by. What stands further left anybody may have
    written, and with no trusted proxy all of it.
    """
    hops = [hop.strip() for hop in request.headers.get("X-Forwarded-For", "").split(",")]
    trusted: int = settings.TRUSTED_PROXIES
    for candidate in (hops[-trusted] if 0 < trusted <= len(hops) else "", request.META.get("REMOTE_ADDR", "")):
        try:
            address = ipaddress.ip_address(candidate)
        except ValueError:
            continue
        mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:192.0.2.1 is the same place as 192.0.2.1
        return str(mapped or address)
    return NOWHERE


def client_network(request: HttpRequest) -> str:
    """The same for counting: of IPv6 the /64, since whoever has one address of it has all."""
    address = client_address(request)
    if ":" not in address:
        return address
    return str(ipaddress.ip_network(f"{address.split('%')[0]}/64", strict=False).network_address)
