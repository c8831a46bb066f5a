"""The request that OPTIONS describe, read once and filled in for each message."""

import re
from base64 import b64encode
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from outbox.providers.http.templates import NAME, fill, names_in

METHODS = ("GET", "POST", "PUT", "PATCH")
KNOWN = {"url", "method", "headers", "query", "form", "json"}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.1
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_OURS = {"content-length", "transfer-encoding", "host"}  # how the request is framed and routed is not for a template


class RequestTemplate:
    """An HTTP request with placeholders.

    auth: user and password, for HTTP Basic. placeholders: the names it may hold; in_url: those that the address may.
    Raises ValueError, with a sentence for the operator, for what makes no request.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        auth: Any,
        *,
        placeholders: Collection[str],
        in_url: Collection[str] = (),
        method: str = "POST",
    ) -> None:
        self.url = _url(options.get("url"), in_url)
        self.method = _method(options.get("method"), method)
        self.query = fields("query", options.get("query"))
        self.form = fields("form", options.get("form"))
        self.json: Any = options.get("json")
        self.headers = _headers(fields("headers", options.get("headers")), auth)
        if self.form and self.json is not None:
            raise ValueError("Give `form` or `json`, not both.")
        self.names = set(names_in([self.url, self.query, self.headers, self.form, self.json]))
        if unknown := self.names - set(placeholders):
            raise ValueError(
                f"No such placeholder: {{{'}, {'.join(sorted(unknown))}}}; known are {', '.join(sorted(placeholders))}."
            )
        try:
            self.fill(dict.fromkeys(placeholders, "0"))
        except (ValueError, requests.RequestException) as error:
            raise ValueError(f"No request can be made of these OPTIONS: {error}") from None

    def fill(self, values: Mapping[str, str]) -> requests.PreparedRequest:
        """The request with its placeholders replaced. Raises ValueError or RequestException when a value spoils it."""
        headers = fill(self.headers, values)
        if any(_CONTROL.search(value) or value != value.strip() for value in headers.values()):
            raise ValueError("A header holds no line breaks, no other control characters and no space at its ends.")
        request = requests.Request(
            self.method,
            fill(self.url, {name: quote(value, safe="") for name, value in values.items()}),
            headers={name: value.encode() for name, value in headers.items()},
            params=fill(self.query, values),
            data=fill(self.form, values),
            json=fill(self.json, values),
        )
        return request.prepare()


def _url(given: Any, placeholders: Collection[str]) -> str:
    if not isinstance(given, str) or not given:
        raise ValueError("url: give the address of the gateway.")
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("url: it must begin with http:// or https:// and name a host.")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url: give the user and password as `auth`; an address ends up in logs.")
    if "{" in NAME.sub(lambda name: "" if name[1] in placeholders else name[0], given) or "{" in parts.netloc:
        raise ValueError("url: placeholders go into `query`, `headers`, `form` or `json`.")
    return given


def _method(given: Any, default: str) -> str:
    method = default if given is None else given
    if method not in METHODS:
        raise ValueError(f"method: it must be one of {', '.join(METHODS)}.")
    return str(method)


def fields(option: str, given: Any) -> dict[str, str]:
    """An option that maps names to texts. Raises ValueError."""
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(type(value) in (str, int, float) for value in given.values()):
        raise ValueError(f"{option}: it must be an object of names with texts or numbers.")
    return {name: str(value) for name, value in given.items()}


def _headers(given: dict[str, str], auth: Any) -> dict[str, str]:
    names = [name.lower() for name in given]
    for name, value in given.items():
        if not _HEADER_NAME.fullmatch(name) or _CONTROL.search(value) or value != value.strip():
            raise ValueError(f"headers: {name!r} is not a header, or its value holds what a header cannot.")
        if name.lower() in _OURS or names.count(name.lower()) > 1:
            raise ValueError(f"headers: {name} is set twice, or not for OPTIONS to set.")
    defaults = {"User-Agent": "SMS Portal", "Accept": "*/*", "Accept-Encoding": "identity"}
    if auth is not None:
        if not isinstance(auth, list | tuple) or len(auth) != 2 or not all(isinstance(part, str) for part in auth):
            raise ValueError('auth: give ["user", "password"].')
        if "authorization" in names:
            raise ValueError("Give `auth` or an Authorization header, not both.")
        # RFC 7617, in UTF-8; requests would take it for latin-1.
        defaults["Authorization"] = f"Basic {b64encode(':'.join(auth).encode()).decode()}"
    return {**{name: value for name, value in defaults.items() if name.lower() not in names}, **given}
