"""A PostgreSQL that fails when it is told to, with the errors that it would have of its own."""

import contextlib
from collections.abc import Iterator

from django.db import connection

DEADLOCK = "40P01"
SERIALIZATION_FAILURE = "40001"
DISK_FULL = "53100"
READ_ONLY = "25006"


@contextlib.contextmanager
def failing(table: str, sqlstate: str, times: int) -> Iterator[None]:
    """Inserts into `table` and updates of it fail so many times; not within a transaction, which would undo it."""
    with connection.cursor() as cursor:
        # A sequence counts on when what has asked it is rolled back.
        cursor.execute("CREATE SEQUENCE failures")
        cursor.execute(f"""
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('failures') <= {times} THEN RAISE EXCEPTION 'as told' USING ERRCODE = '{sqlstate}'; END IF;
                RETURN NULL;
            END $$
        """)
        cursor.execute(f"CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION fail()")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TRIGGER fail ON {table}; DROP FUNCTION fail; DROP SEQUENCE failures")
