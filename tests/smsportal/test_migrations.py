"""The migrations make the models' database, and can be taken back."""

import pytest
from django.core.management import call_command


def test_no_migration_is_missing(db):
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


@pytest.mark.django_db(transaction=True)
def test_every_migration_can_be_taken_back_and_made_again():
    for app in ("outbox", "billing"):
        call_command("migrate", app, "zero", verbosity=0)
    call_command("migrate", verbosity=0)
