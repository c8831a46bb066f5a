"""A portal with a long past: messages in every state there is, written straight into the tables, their books right."""

import json
from typing import Any

from django.db import connection

from billing.models import Account
from smsportal.models import User

# Of a thousand messages: how many lived so, how the message stands, and the acceptances it has had. Each of those has
# the outcomes of its attempts (null: under way) and what ended its hold (null: nothing yet).
SENT = {"status": "sent", "charge_status": "charged"}
FAILED = {"status": "failed", "charge_status": "released"}
PENDING = {"status": "pending", "charge_status": "held"}
TAKEN = [["accepted"], "capture"]
REFUSED = [["rejected"], "release"]
STORIES: list[tuple[int, dict[str, Any], list[Any]]] = [
    (600, SENT | {"delivery_status": "delivered"}, [TAKEN]),
    (150, SENT, [TAKEN]),
    (30, SENT | {"delivery_status": "delivered"}, [[["unavailable", "unavailable", "accepted"], "capture"]]),
    (30, FAILED | {"charge_status": "charged", "delivery_status": "undelivered", "error_code": "undelivered"}, [TAKEN]),
    (60, FAILED | {"error_code": "provider_rejected"}, [REFUSED]),
    (40, SENT | {"delivery_status": "delivered"}, [REFUSED, TAKEN]),
    (10, SENT, [TAKEN, REFUSED, TAKEN]),
    (15, FAILED | {"error_code": "expired"}, [[["unavailable"] * 4, "release"]]),
    (10, FAILED | {"error_code": "cancelled"}, [[[], "release"]]),
    (10, FAILED | {"charge_status": "none", "error_code": "insufficient_balance"}, []),
    (10, FAILED | {"error_code": "outcome_unknown"}, [[["unknown"], "release"]]),
    (5, SENT | {"charge_status": "released", "delivery_status": "delivered"}, [[["unknown"], "release"]]),
    (10, PENDING | {"outcome": "unknown", "error_code": "outcome_unknown"}, [[["unavailable", "unknown"], None]]),
    (5, PENDING, [[[None], None]]),
    (10, PENDING, [[["unavailable"], None]]),
    (5, PENDING, [REFUSED, [[], None]]),
]

BUILD = """
CREATE TEMP TABLE story ON COMMIT DROP AS
    SELECT *, jsonb_array_length(acceptances) AS accepted, GREATEST(jsonb_array_length(acceptances) - 1, 0) AS resends
    FROM jsonb_to_recordset(%(stories)s::jsonb) AS story (
        first int, beyond int, status text, charge_status text, outcome text, delivery_status text, error_code text,
        acceptances jsonb
    );

INSERT INTO billing_price (user_id, prefix, price_per_segment, currency, effective_from, reason)
    VALUES (NULL, '', 2.5, 'KES', now() - interval '1 year', 'first list'),
           (NULL, '254', 0.8, 'KES', now() - interval '1 year', 'first list'),
           (NULL, '254', 0.75, 'KES', now() - interval '30 days', 'cheaper');

-- A few businesses send most of the messages.
CREATE TEMP TABLE message ON COMMIT DROP AS
    WITH drawn AS (
        SELECT n, random() AS age, floor(random() * 1000)::int AS fate,
               1 + floor(%(users)s * random() ^ 4)::int AS place,
               1 + (random() < 0.2)::int + (random() < 0.05)::int AS segments,
               (CASE WHEN random() < 0.9 THEN '+2547' ELSE '+4477' END) || lpad(floor(random() * 1e8)::text, 8, '0')
                   AS recipient
        FROM generate_series(1, %(messages)s) AS n
    ), dated AS (
        SELECT drawn.*, story.*,
               now() - CASE WHEN status = 'pending' THEN age * interval '1 hour'
                            ELSE interval '3 days' + age * interval '90 days' END AS at
        FROM drawn JOIN story ON fate >= first AND fate < beyond
    ), account AS (
        SELECT id AS account_id, user_id, row_number() OVER (ORDER BY id) AS number FROM billing_account
    )
    SELECT dated.*, account_id, user_id,
           (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3)
            || '8' || substr(md5(n::text), 4, 15))::uuid AS id,
           CASE WHEN recipient NOT LIKE '+254%%' THEN 2.5 WHEN at < now() - interval '30 days' THEN 0.8 ELSE 0.75 END
               AS price
    FROM dated JOIN account ON account.number = place;
ANALYZE message;

CREATE TEMP TABLE acceptance ON COMMIT DROP AS
    SELECT message.n, message.id, account_id, number - 1 AS number, acceptance -> 0 AS outcomes,
           acceptance ->> 1 AS ending, message.id || '/' || (number - 1) AS reference, segments * price AS amount,
           at + (number - 1) * interval '1 minute' AS at
    FROM message CROSS JOIN jsonb_array_elements(acceptances) WITH ORDINALITY AS accepted (acceptance, number);
ANALYZE acceptance;

CREATE TEMP TABLE attempt ON COMMIT DROP AS
    SELECT acceptance.id, reference, outcome, acceptance.at + place * interval '5 seconds' AS at,
           row_number() OVER (PARTITION BY n ORDER BY number, place) AS number
    FROM acceptance CROSS JOIN jsonb_array_elements_text(outcomes) WITH ORDINALITY AS outcome (outcome, place);
ANALYZE attempt;

INSERT INTO outbox_outbox (id, user_id, recipient, text, sender_id, message_id, request_fingerprint, encoding, segments,
        price_per_segment, total_cost, currency, charge_status, status, outcome, delivery_status, error_code,
        error_details, created_at, due_at, expires_at, validity_minutes, provider, last_attempt_at, sent_at,
        delivered_at, retry_count, max_retries, attempt_count, priority, tags, is_test)
    SELECT message.id, user_id, recipient, repeat('Your parcel is on its way. ', 1 + 5 * (segments - 1)), 'MYBRAND',
           'order-' || n, md5(n::text), 'GSM-7', segments, price, segments * price, 'KES', charge_status, status,
           outcome, delivery_status, error_code, error_code, message.at,
           CASE WHEN status = 'pending' AND outcome IS NULL AND NOT COALESCE(handed.open, false)
                THEN now() + interval '1 hour' END,
           message.at + interval '1 day', 1440, 'acme', handed.last_at, handed.accepted_at,
           CASE WHEN delivery_status = 'delivered' THEN message.at + interval '9 minutes' END,
           resends, 3, COALESCE(handed.attempts, 0), (n %% 10 = 0)::int,
           CASE WHEN n %% 3 = 0 THEN ARRAY['orders', 'shop' || n %% 100] ELSE '{}' END, FALSE
    FROM message LEFT JOIN (
        SELECT id, COUNT(*) AS attempts, MAX(at) AS last_at, bool_or(outcome IS NULL) AS open,
               MIN(at) FILTER (WHERE outcome = 'accepted') AS accepted_at
        FROM attempt GROUP BY id
    ) AS handed ON handed.id = message.id
    ORDER BY message.at;
UPDATE outbox_outbox SET sent_at = delivered_at WHERE status = 'sent' AND sent_at IS NULL;

INSERT INTO outbox_attempt (outbox_id, number, hold_reference, provider, started_at, lease_expires_at, finished_at,
                            outcome, provider_message_id, error_code)
    SELECT id, number, reference, 'acme', at, CASE WHEN outcome IS NULL THEN now() ELSE at END + interval '25 seconds',
           CASE WHEN outcome IS NOT NULL THEN at + interval '1 second' END, outcome,
           CASE WHEN outcome = 'accepted' THEN 'acme-' || id || '-' || number END,
           CASE WHEN outcome <> 'accepted' THEN outcome END
    FROM attempt ORDER BY at;
UPDATE outbox_attempt SET look_up_at = now() FROM outbox_outbox AS entry
    WHERE entry.outcome = 'unknown' AND outbox_id = entry.id AND number = entry.attempt_count;

INSERT INTO outbox_receipt (provider, outbox_id, status, raw, effect, received_at)
    SELECT 'acme', id, told.status, jsonb_build_object('status', told.status), told.effect,
           at + interval '1 minute' * told.place
    FROM message CROSS JOIN LATERAL (
        VALUES (5, 'in_transit', CASE WHEN charge_status = 'charged' THEN 'repeated' ELSE 'contradicts' END),
               (9, delivery_status, 'applied'), (10, delivery_status, 'repeated')
    ) AS told (place, status, effect)
    WHERE told.status IS NOT NULL AND (delivery_status IS NOT NULL) ORDER BY at;

-- Every movement of money, in the order of time; what an account stood at after each follows from it.
INSERT INTO billing_posting (id, account_id, kind, amount, balance_after, held_after, settles_id, reference, reason,
                             created_at)
    WITH moved AS (
        SELECT account_id, at, 'hold' AS kind, amount, reference FROM acceptance
        UNION ALL
        SELECT account_id, at + interval '30 seconds', ending, amount, reference FROM acceptance
        WHERE ending IS NOT NULL
        UNION ALL
        SELECT id, now() - interval '200 days', 'top_up', 10000000, 'payment-' || id FROM billing_account
        UNION ALL
        SELECT id, now() - interval '100 days', 'adjustment', -12.5, 'fee-' || id FROM billing_account
    ), numbered AS (
        SELECT *, row_number() OVER (ORDER BY at, reference, kind) AS id FROM moved
    )
    SELECT id, account_id, kind, amount,
           SUM(CASE kind WHEN 'hold' THEN 0 WHEN 'release' THEN 0 WHEN 'capture' THEN -amount ELSE amount END)
               OVER (PARTITION BY account_id ORDER BY id),
           SUM(CASE kind WHEN 'hold' THEN amount WHEN 'release' THEN -amount WHEN 'capture' THEN -amount ELSE 0 END)
               OVER (PARTITION BY account_id ORDER BY id),
           CASE WHEN kind IN ('capture', 'release')
                THEN MAX(id) FILTER (WHERE kind = 'hold') OVER (PARTITION BY reference) END,
           reference, '', at
    FROM numbered ORDER BY id;
SELECT setval(pg_get_serial_sequence('billing_posting', 'id'), (SELECT MAX(id) FROM billing_posting));
UPDATE billing_account SET balance = last.balance_after, held = last.held_after
    FROM (SELECT DISTINCT ON (account_id) * FROM billing_posting ORDER BY account_id, id DESC) AS last
    WHERE last.account_id = billing_account.id;
"""


def write(messages: int, users: int = 50) -> None:
    """Fill an empty database, in a transaction: the scratch tables go at its end. ANALYZE it when it is committed."""
    stories, first = [], 0
    for weight, message, acceptances in STORIES:
        stories.append(message | {"first": first, "beyond": first + weight, "acceptances": acceptances})
        first += weight
    businesses = User.objects.bulk_create(User(username=f"business{number}") for number in range(users))
    Account.objects.bulk_create(Account(user=user, currency="KES", credit_limit=100) for user in businesses)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0")
        cursor.execute("SET LOCAL work_mem = '256MB'")
        cursor.execute(BUILD, {"stories": json.dumps(stories), "messages": messages, "users": users})
