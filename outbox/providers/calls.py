"""What a call to a provider proves: whether the message may have been taken, or provably nothing left."""

import requests

from outbox.providers.base import OutcomeUnknown, ProviderError, Unavailable
from smsportal import calls
from smsportal.calls import Answer, CallFailed


class Caller(calls.Caller):
    """Makes calls to one provider over kept connections; serves any number of threads."""

    def call(self, request: requests.PreparedRequest, seconds: float) -> Answer:
        """The answer to a request, all within `seconds`. Never sent twice, never redirected.

        Raises Unavailable when provably no byte of the request left, else OutcomeUnknown.
        """
        try:
            return super().call(request, seconds)
        except CallFailed as failed:
            failure = _meaning(failed, seconds)
        raise failure


def _meaning(failed: CallFailed, seconds: float) -> ProviderError:
    if failed.handed_over:
        broke = "The connection broke, or the answer is not HTTP."
        what = f"No whole answer within {seconds:g} s." if failed.late else broke
        return OutcomeUnknown(f"{what} The message may have been sent.")
    if failed.securing:
        return Unavailable(f"Provider: {failed.trouble}.", code="provider_tls", refuses_us=True)
    return Unavailable(f"Provider: {failed.trouble}.", code="provider_unreachable")
