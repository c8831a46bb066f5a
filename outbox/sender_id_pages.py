"""The page of a user's sender IDs: what is approved, what waits, what is the default; and asking for another."""

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import redirect, render

from outbox import sender_ids
from outbox.forms import SenderIdForm
from smsportal.exceptions import DomainError
from smsportal.visits import Visit, page


@page("GET", "HEAD", "POST")
def sender_ids_page(request: Visit) -> HttpResponse:
    """Your sender IDs. POST asks the staff for another."""
    form = SenderIdForm(request.POST or None)
    if form.is_valid():
        try:
            wanted = sender_ids.request(request.user, form.cleaned_data["name"])
        except ValidationError as error:
            form.add_error("name", error)
        except DomainError as error:
            form.add_error("name", error.message)
        else:
            messages.success(request, f"The operator has been asked for {wanted.name}.")
            return redirect("outbox:sender_ids")
    context = {"form": form, "sender_ids": request.user.sender_ids.order_by("-pk")}
    return render(request, "outbox/sender_ids.html", context)


@page("POST")
def choose_default(request: Visit) -> HttpResponse:
    """What messages are sent as that name no sender ID."""
    name = request.POST.get("name", "")
    try:
        sender_ids.choose_default(request.user, name)
    except DomainError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"Your default is now {name}." if name else "You have no default now.")
    return redirect("outbox:sender_ids")
