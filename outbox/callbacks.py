"""Where providers report deliveries: each proves itself in its own way, and gets no more than a yes or a no."""

import logging

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from outbox import receipts
from outbox.gathering import Gathering
from outbox.providers import get_provider, provider_names
from outbox.providers.base import ReceiptRefused
from smsportal.api.problems import problem_response

logger = logging.getLogger(__name__)

# A flood of receipts, as after a campaign, must leave room for everybody else.
apply_with_others = Gathering(receipts.apply_together)


@csrf_exempt
@require_http_methods(["GET", "POST"])
def receive(request: HttpRequest, provider: str, token: str) -> HttpResponseBase:
    """Take one delivery receipt: 200 whether or not it says something new, so that the provider does not repeat it.

    Not 204: Kannel 1.4 takes anything but 200 and 202 for a failure.
    """
    if provider not in provider_names():
        return problem_response("forbidden")  # as for a wrong token: nobody learns the names of providers
    try:
        receipt = get_provider(provider).read_receipt(request, token)
    except ReceiptRefused as refusal:
        logger.warning("provider %s: receipt refused: %s", provider, refusal)
        return problem_response("invalid" if refusal.authentic else "forbidden")
    if not apply_with_others((provider, receipt)):
        receipts.apply(provider, receipt)
    return HttpResponse()
