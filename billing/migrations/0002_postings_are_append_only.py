"""The ledger refuses to be changed, whoever asks: a correction is a new line."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_accounts_prices_ledger")]

    operations = [
        migrations.RunSQL(
            """
            CREATE FUNCTION billing_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION 'The ledger is append-only: % refused. Correct it by a new posting.', TG_OP
                    USING ERRCODE = 'integrity_constraint_violation';
            END $$;
            CREATE TRIGGER posting_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_posting
                FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();
            """,
            reverse_sql="""
            DROP TRIGGER posting_append_only ON billing_posting;
            DROP FUNCTION billing_refuse_change();
            """,
        ),
    ]
