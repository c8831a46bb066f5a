"""Data that a migration moves is as it should be afterwards, and before again."""

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from outbox import outcomes, sender_ids, sending
from outbox.providers.base import Accepted
from tests.factories import SenderIdFactory, UserFactory
from tests.outbox.attempts import hand_over, unknown_message

BEFORE = [("outbox", "0002_providers_and_workers")]
AFTER = [("outbox", "0003_receipt_effects")]


def migrate(targets, model="Receipt"):
    executor = MigrationExecutor(connection)
    executor.migrate(targets)
    return MigrationExecutor(connection).loader.project_state(targets).apps.get_model("outbox", model)


def migrate_to_the_end():
    ends = MigrationExecutor(connection).loader.graph.leaf_nodes()
    MigrationExecutor(connection).migrate([node for node in ends if node[0] == "outbox"])


@pytest.mark.django_db(transaction=True)
def test_receipts_that_were_applied_or_not_get_their_effects(account):
    unknown = unknown_message(account)
    entry = sending.send(account.user, recipient="+254711000001", text="x")
    outcomes.settle([(hand_over(entry).pk, Accepted("p1"))])
    type(entry).objects.filter(pk=entry.pk).update(delivery_status="delivered")
    kept = {
        "applied": ("delivered", True, entry.pk),
        "repeated": ("delivered", False, entry.pk),
        "late": ("in_transit", False, entry.pk),
        "contradicts": ("undelivered", False, entry.pk),
        "unrecognised": ("unrecognised", False, entry.pk),
        "orphan": ("unrecognised", False, None),
    }
    try:
        old = migrate(BEFORE)
        for status, applied, outbox_id in kept.values():
            old.objects.create(provider="locmem", status=status, applied=applied, outbox_id=outbox_id, raw={})

        new = migrate(AFTER)

        assert list(new.objects.order_by("pk").values_list("effect", flat=True)) == list(kept)
        assert unknown.attempts.get().look_up_at is not None
        assert entry.attempts.get().look_up_at is None
        old = migrate(BEFORE)
        assert list(old.objects.order_by("pk").values_list("applied", flat=True)) == [True] + [False] * 5
    finally:
        migrate_to_the_end()


@pytest.mark.django_db(transaction=True)
def test_whatever_was_sent_as_before_is_approved_so_that_nobodys_messages_stop(account):
    bo = UserFactory(username="bo", default_sender_id="mybrand")
    odd = UserFactory(username="odd", default_sender_id="My-Brand.Ltd")
    SenderIdFactory(user=account.user, name="SHOP")
    for name in ("SHOP", "MYBRAND", "MyBrand"):
        sending.send(account.user, recipient="+254711000001", text="x", sender_id=name)
    try:
        migrate([("outbox", "0006_sender_ids_and_opt_outs")], "SenderId").objects.all().delete()

        approved = migrate([("outbox", "0007_approve_sender_ids_in_use")], "SenderId")

        kept = approved.objects.order_by("user_id", "name").values_list("user__username", "name", "state", "is_shared")
        assert list(kept) == [
            ("amina", "MYBRAND", "approved", False),
            ("amina", "SHOP", "approved", False),
            ("bo", "mybrand", "approved", True),
            ("odd", "My-Brand.Ltd", "approved", False),
        ]
        assert sender_ids.is_allowed("mybrand", bo)
        assert sender_ids.is_allowed("My-Brand.Ltd", odd)
        assert not sender_ids.is_allowed("My-Brand/Ltd", odd)
    finally:
        migrate_to_the_end()
