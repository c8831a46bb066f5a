"""A bad day: users send while everything is killed, frozen and restarted, with a hostile provider. Nothing we promise
breaks.

.ci/run has a short one. A longer one, or the same plan again:

    CHAOS_SEED=7 CHAOS_ROUNDS=20 python -m pytest -s tests/chaos
"""

import contextlib
import os
import random
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal

from django.core import serializers

from smsportal.embedded_postgres import temporary_cluster
from smsportal.models import ApiKey
from tests.chaos.evidence import Evidence, Watch, wait_until_quiet
from tests.chaos.processes import Portal
from tests.chaos.promises import broken
from tests.chaos.storm import DEEDS, plan, storm
from tests.chaos.traffic import App, Staff
from tests.factories import PriceFactory, UserFactory

SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.randrange(1, 10**6)
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "0")) or len(DEEDS)
USERS = {"amina": "5000", "brian": "5000", "chausiku": "150", "daudi": "20"}  # their money; two will run out of it
APPS_OF_A_USER = 2
FIELDS = (  # of users, keys and prices; all others have defaults
    *("username", "date_joined", "user", "name", "digest", "created_at"),
    *("prefix", "price_per_segment", "currency", "effective_from", "reason"),
)
MODES = (
    "accept/late=20,accept/early=5,accept/never=5,accept/double=3,accept/in-order=3,accept/reordered=3"
    ",accept/contradicting=2,accept/undelivered=8,accept/forged=2,accept/for-nobody=2"
    ",slow/late=30,slow/early=5,twice/late=1,same-id/late=1"
    ",hang/late=1,hang/never=2,hang/early=1,reset/late=1,reset/never=1,end-early/double=1,cut-off/never=1"
    ",half-json/late=1,html/never=1,garbage/late=1,500/late=1,502/never=1,drip/early=1,drip-body/never=1"
    ",busy=2,busy-absent=2,throttle-seconds=1,throttle-negative=1,throttle-text=1,reject=5,reject-inside=2"
    ",lost-500=1,lost-hang=1,lost-reset=1"
)


def test_a_bad_day_breaks_no_promise(tmp_path):
    print(f"\nCHAOS_SEED={SEED} CHAOS_ROUNDS={ROUNDS}; logs in {tmp_path}")
    with temporary_cluster(durable=True) as database, Portal(database, tmp_path, MODES, SEED) as portal:
        over = threading.Event()
        apps, staff = people(portal, over)
        with portal.running(), Watch(database.url) as watch:
            with at_work([*apps, staff], over):
                storm(portal, plan(SEED, ROUNDS))
            wait_until_quiet(database.url)

            def evidence() -> Evidence:
                requests = [request for app in apps for request in app.requests]
                return Evidence.collect(database.url, requests, staff.payments, portal.provider.running.journal())

            before = evidence()
            report(apps, watch, before)
            refuse(broken(before, receipts_are_in=False))
            assert set().union(*(app.unknown() for app in apps)) == before.unknown()
            # A receipt alone settles each of these that the provider has.
            in_doubt = sorted(before.unknown() & before.taken().keys())
            assert set(portal.provider.running.send_receipts("late", in_doubt)) <= {200}
            after = evidence()
            print(f"{len(before.unknown())} unknown, of which the provider has {len(in_doubt)};", end=" ")
            print(f"after their receipts {len(after.unknown())}, {(after.taken() - after.charged()).total()}")
            refuse(broken(after, receipts_are_in=True))
            audit = portal.manage("audit")
            assert audit.returncode == 0, audit.stdout
            assert [part.stop() for part in (portal.web, *portal.workers)] == [0, 0, 0]
        refuse(watch.found)
        assert in_doubt, "no answer was lost: the test has proved too little"


def refuse(found: Iterable[str]) -> None:
    sentences = list(found)
    assert not sentences, "\n".join(sentences)


def people(portal: Portal, over: threading.Event) -> tuple[list[App], Staff]:
    """Users with their money, keys and apps, a price list, and the staff."""
    now = datetime.now(UTC)
    users = [UserFactory.build(username=name, date_joined=now) for name in USERS]
    prices = [
        PriceFactory.build(prefix=prefix, price_per_segment=Decimal(price), currency="KES", created_at=now)
        for prefix, price in {"": "1.1003", "254": "0.8"}.items()
    ]
    keys, apps = [], []
    for number, user in enumerate(users * APPS_OF_A_USER):
        secret = ApiKey.PREFIX + secrets.token_urlsafe(32)
        keys.append(ApiKey(user=user, name=f"app {number}", digest=ApiKey.digest_of(secret), created_at=now))
        apps.append(App(portal.base, user.username, secret, number, SEED, over))
    portal.must("migrate", "--verbosity=0")
    rows = serializers.serialize("json", [*users, *keys, *prices], fields=FIELDS)
    portal.must("loaddata", "--format=json", "-", stdin=rows)
    staff = Staff(portal, list(USERS), SEED, over)
    for name, money in USERS.items():
        staff.pay(name, Decimal(money))
    return apps, staff


@contextlib.contextmanager
def at_work(people: list[threading.Thread], over: threading.Event) -> Iterator[None]:
    """All of them, until the end of the block; each gets the answer to what it asked for last."""
    for one in people:
        one.start()
    try:
        yield
    finally:
        over.set()
        for one in people:
            one.join()


def report(apps: list[App], watch: Watch, evidence: Evidence) -> None:
    """The figures of the day, for whoever watches."""
    answers = Counter(
        f"{request.path.split('/')[-1]} {answer.status} {answer.body.get('code', '')}".strip()
        for request in evidence.requests
        for answer in request.answers
    )
    troubles = sum((app.troubles for app in apps), Counter())
    states = Counter(f"{row['status']} {row['outcome'] or row['error_code'] or ''}" for row in evidence.outbox.values())
    attempts = [one for attempts in evidence.attempts.values() for one in attempts]
    outcomes = Counter(one["outcome"] for one in attempts)
    leases = sum("did not come back" in (one["error_details"] or "") for one in attempts)
    print(f"{len(evidence.requests)} requests; asked again after {dict(troubles)}")
    print(f"answers: {dict(answers)}")
    print(f"{len(evidence.outbox)} messages: {dict(states)}")
    print(f"{len(evidence.journal)} in the journal; attempts: {dict(outcomes)}, {leases} by the end of their lease")
    print(f"{watch.looks} looks at the accounts; {len(evidence.postings)} postings, {len(evidence.payments)} payments")
