"""How often somebody may try to log in: django-axes, with tries that are counted before the password is looked at.

Its own handlers count a failure afterwards, so of many tries at once all get through (measured: 40 of 40, at a limit of
5). They also keep every field that was posted, and a row for each browser. Ours keeps one row for a name as it was
typed and the network it came from, and one for the network as a whole, under no name.
"""

from datetime import timedelta
from typing import Any

from axes.handlers.database import AxesDatabaseHandler
from axes.models import AccessAttempt
from django.conf import settings
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from smsportal.models import User

ANY_NAME = ""  # which no form accepts
REMEMBERED = timedelta(days=1)  # for the staff to see


class CountFirst(AxesDatabaseHandler):  # type: ignore[misc]  # axes has no types
    """Nobody is locked out anywhere else by a stranger who tries their name, and nobody for longer than the cool-off.

    All names are treated alike, whether or not there is such a user.
    """

    def is_allowed(self, request: Any, credentials: dict[str, Any] | None = None) -> bool:
        """Take a try of that name from there. False when none is left."""
        name, network = (credentials or {}).get("username") or ANY_NAME, request.axes_ip_address
        return take(name, network, settings.LOGIN_TRIES) and take(ANY_NAME, network, settings.LOGIN_TRIES_OF_A_NETWORK)

    def user_logged_in(self, sender: Any, request: Any, user: User, **kwargs: Any) -> None:
        """Give the try back; the name's earlier failures are forgiven."""
        AccessAttempt.objects.filter(username=user.get_username(), ip_address=request.axes_ip_address).delete()
        AccessAttempt.objects.filter(
            username=ANY_NAME, ip_address=request.axes_ip_address, failures_since_start__gt=0
        ).update(failures_since_start=F("failures_since_start") - 1)
        AccessAttempt.objects.filter(attempt_time__lt=Now() - REMEMBERED).delete()

    def user_login_failed(self, *args: Any, **kwargs: Any) -> None:
        """It was counted before."""

    def user_logged_out(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to keep."""


def take(name: str, network: str, limit: int) -> bool:
    """Count one more try, unless `limit` have been counted in the LOGIN_COOL_OFF that began with the first of them.

    One statement decides: of any number at once, `limit` get through.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO axes_accessattempt AS a (username, ip_address, user_agent, http_accept, path_info, get_data,
                                                 post_data, attempt_time, failures_since_start)
            VALUES (%(name)s, %(network)s, '', '', '', '', '', statement_timestamp(), 1)
            ON CONFLICT (username, ip_address, user_agent) DO UPDATE
            SET (attempt_time, failures_since_start) = (
                SELECT CASE WHEN over THEN statement_timestamp() ELSE a.attempt_time END,
                       CASE WHEN over THEN 1 ELSE a.failures_since_start + 1 END
                FROM (SELECT a.attempt_time < statement_timestamp() - make_interval(secs => %(cool_off)s)) t(over))
            WHERE a.failures_since_start < %(limit)s
               OR a.attempt_time < statement_timestamp() - make_interval(secs => %(cool_off)s)
            """,
            {"name": name, "network": network, "limit": limit, "cool_off": settings.LOGIN_COOL_OFF.total_seconds()},
        )
        return bool(cursor.rowcount)


def locked_out(request: HttpRequest, response: HttpResponse | None, credentials: Any) -> HttpResponse:
    """The same page for every name."""
    minutes = round(settings.LOGIN_COOL_OFF.total_seconds() / 60)
    answer = render(request, "429.html", {"minutes": minutes}, status=429)
    answer["Retry-After"] = str(round(settings.LOGIN_COOL_OFF.total_seconds()))
    return answer
