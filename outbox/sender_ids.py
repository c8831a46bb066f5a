"""Who may send as whom: a user asks for a name, the staff approve it, and no other user gets one that looks like it."""

from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now

from outbox import validation
from outbox.exceptions import SenderIdDecided, SenderIdKnown, SenderIdNotAllowed, SenderIdProtected, SenderIdTaken
from outbox.look_alikes import fold
from outbox.models import ProtectedName, SenderId
from smsportal import notices
from smsportal.models import Notice, User

State = SenderId.State
MAX_REQUESTS = 10  # of one user, waiting for the staff at a time
MAX_NAME_LENGTH = 11  # characters that a network carries
MAX_NUMBER_LENGTH = 16
SHORT_NAME = 3  # a protected name of so few letters is a part of too many words
NOTICE = "sender_id_requested"


# --- sending ----------------------------------------------------------------------------------------------------------


def clean(sender_id: str, user: User) -> str:
    """What a message of the user's is to be sent as.

    Raises ValidationError for what no network carries, a number that is not the user's own included; then
    SenderIdNotAllowed for a name that is not approved for the user.
    """
    if is_allowed(sender_id, user):
        return sender_id
    if not validation.is_sender_name(sender_id):
        raise ValidationError(
            "Must be 1 to 11 letters A-Z, digits or inner spaces, with at least one letter; or a number of your own"
            " that has been approved.",
            code="invalid_sender_id",
        )
    waiting = SenderId.objects.filter(user=user.live_id, folded=fold(sender_id), state=State.REQUESTED)
    raise SenderIdNotAllowed(sender_id, is_requested=waiting.exists())


def is_allowed(sender_id: str, user: User) -> bool:
    """Whether the name, or one that it looks like, is approved for the user; anything but a name to the letter.

    A test twin sends as the user it stands for.
    """
    if len(sender_id) > MAX_NUMBER_LENGTH:
        return False
    with connection.cursor() as cursor:  # it is asked for every message, and the ORM takes five times as long
        cursor.execute(
            "SELECT name FROM outbox_senderid WHERE user_id = %s AND folded = %s AND state = 'approved'",
            [user.live_id, fold(sender_id)],
        )
        approved = cursor.fetchone()
    return approved is not None and (sender_id == approved[0] or validation.is_sender_name(sender_id))


def approved_for(user: User) -> list[str]:
    return list(user.sender_ids.filter(state=State.APPROVED).order_by("name").values_list("name", flat=True))


def choose_default(user: User, sender_id: str) -> None:
    """What messages that name no sender ID are sent as; "" for the provider's own. Raises SenderIdNotAllowed."""
    if sender_id and not is_allowed(sender_id, user):
        raise SenderIdNotAllowed(sender_id)
    User.objects.filter(pk=user.pk).update(default_sender_id=sender_id)


# --- asking for one, and deciding -------------------------------------------------------------------------------------


@transaction.atomic
def request(user: User, name: str) -> SenderId:
    """Ask the staff for a sender ID: a name, or a number of the user's own in any form that can be sent to.

    Raises ValidationError, SenderIdKnown.
    """
    if not validation.is_sender_name(name):
        name = _own_number(name)
    if user.sender_ids.filter(state=State.REQUESTED).count() >= MAX_REQUESTS:
        raise SenderIdKnown(f"{MAX_REQUESTS} of your sender IDs wait for the operator already.")
    try:
        with transaction.atomic():
            sender_id = SenderId.objects.create(user=user, name=name, folded=fold(name))
    except IntegrityError as error:
        raise SenderIdKnown("You have asked for this sender ID, or one that looks like it, before.") from error
    what = f"“{name}”" if validation.is_sender_name(name) else "a number"  # a notice is logged, and numbers are not
    text = f"{user.get_username()} asks for the sender ID {what}. Approve or refuse it under “Sender IDs”."
    notices.tell_staff(NOTICE, str(sender_id.pk), text, Notice.Level.WARNING)
    return sender_id


def waiting(user: User, name: str) -> SenderId | None:
    """What the user has asked for by this name, if the staff have not decided yet."""
    return user.sender_ids.filter(folded=fold(name), state=State.REQUESTED).first()


def _own_number(typed: str) -> str:
    try:
        return validation.clean_recipient(typed)
    except ValidationError as error:
        raise ValidationError(
            "Must be 1 to 11 letters A-Z, digits or inner spaces, with at least one letter; or a phone number of your"
            " own.",
            code="invalid_sender_id",
        ) from error


@transaction.atomic
def approve(sender_id: SenderId, *, by: User | None, reason: str, shared: bool = False) -> None:
    """Let the user send as it. shared: another user may have it too, as two branches of one business do.

    by: None for the system itself. Raises SenderIdProtected, SenderIdTaken, SenderIdDecided.
    """
    if by and not by.has_perm("outbox.approve_protected") and (name := protected_name_like(sender_id.name)):
        raise SenderIdProtected(f"It looks like “{name}”, which is protected: you may not approve it.")
    if not shared and others_with(sender_id):
        raise SenderIdTaken
    try:
        with transaction.atomic():
            _decide(sender_id, [State.REQUESTED], State.APPROVED, by, reason, is_shared=shared)
    except IntegrityError as error:
        raise SenderIdTaken from error


@transaction.atomic
def refuse(sender_id: SenderId, *, by: User, reason: str) -> None:
    """Say no, or take an approval back: from now on nothing is sent as it. Raises SenderIdDecided."""
    _decide(sender_id, [State.REQUESTED, State.APPROVED], State.REFUSED, by, reason)


def _decide(
    sender_id: SenderId, before: list[State], after: State, by: User | None, reason: str, **fields: bool
) -> None:
    undecided = SenderId.objects.filter(pk=sender_id.pk, state__in=before)
    if not undecided.update(state=after, decided_at=Now(), decided_by=by, reason=reason, **fields):
        raise SenderIdDecided("Somebody has decided on it already: look at it again.")
    notices.end_for_staff(NOTICE, str(sender_id.pk))
    sender_id.refresh_from_db()


def others_with(sender_id: SenderId) -> list[SenderId]:
    """What other users may send as already and looks the same."""
    same = SenderId.objects.filter(folded=sender_id.folded, state=State.APPROVED).exclude(user=sender_id.user_id)
    return list(same.select_related("user"))


def protected_name_like(name: str) -> ProtectedName | None:
    """The protected name that this one contains, or passes for."""
    folded = fold(name)
    return next((one for one in ProtectedName.objects.all() if _passes_for(folded, one.folded)), None)


def _passes_for(folded: str, protected: str) -> bool:
    if len(protected) <= SHORT_NAME:
        return folded == protected
    return protected[:MAX_NAME_LENGTH] in folded
