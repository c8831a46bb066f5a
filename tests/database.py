"""The whole of the database, to look for what must not be there, or to see that nothing has changed."""

from django.db import connection


def whole_database():
    """Everything that is stored, as text."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT query_to_xml('SELECT * FROM ' || c.oid::regclass, true, true, '')::text FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'public' AND relkind = 'r'"
        )
        return "\n".join(sorted(row[0] for row in cursor.fetchall()))
