"""The main job through a real SMS gateway: our API, a dispatcher, Kannel, two carriers, and the receipts back."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

from smsportal.embedded_postgres import temporary_cluster
from tests.portal import free_port, running_portal

from .kannel import Kannel
from .parts import Received, join
from .texts import EDGES, Text

MESSAGES = 300
TEXTS = [text for text in EDGES if text.standard_count() <= 6]  # as many segments as the portal allows
# The fake SMSC does not say in which encoding a part with a header is.
FAKE_CHARSET = {"GSM-7": "utf-8", "UCS-2": "utf-16-be"}
PRICE = Decimal("0.8")
# Kannel cuts a surrogate pair that falls on the 67th unit instead of moving it to the next part, and so it counts
# less than the standard where that saves a part. The text arrives whole all the same.
CUT_BY_KANNEL = {
    "67 😀": (3, 2),
    "100 😀": (4, 3),
    "134 😀": (5, 4),
    "66 я, 😀, 66 я": (3, 2),
    "66 я, 😀, 133 я": (4, 3),
}


def text_of(message: Received, sent: Text) -> str:
    return message.text if message.parts[0].encoding else message.data.decode(FAKE_CHARSET[sent.encoding])


def test_300_messages_arrive_once_with_their_text_their_receipts_and_every_cent(tmp_path: Path) -> None:
    sent = {f"2547110{index:05}": TEXTS[index % len(TEXTS)] for index in range(MESSAGES)}
    carriers = {number: "fake" if index % 4 == 3 else "smpp" for index, number in enumerate(sent)}
    undelivered = {number for number in sent if carriers[number] == "smpp" and number.endswith("6")}
    routes = {f"+{number}": [f"kannel-{carrier}"] for number, carrier in carriers.items()}

    with Kannel(tmp_path) as kannel, temporary_cluster() as cluster:
        kannel.smsc.receipts = lambda part: ["UNDELIV"] if part.recipient in undelivered else ["ENROUTE", "DELIVRD"]
        providers = {
            f"kannel-{carrier}": {"BACKEND": "outbox.providers.http.Provider", "OPTIONS": kannel.options(carrier)}
            for carrier in ("smpp", "fake")
        }
        settings = {"SMS_PROVIDERS": json.dumps(providers), "SMS_ROUTES": json.dumps(routes)}
        with running_portal(tmp_path, cluster.url, free_port(), **settings) as portal:
            opening = Decimal(str(portal.get("/api/billing/balance").json()["balance"]))

            def send(number: str) -> str:
                body = {"recipientPhoneNumber": f"+{number}", "message": sent[number].text}
                response = portal.post("/api/sms/send", body)
                assert response.status_code == 201, response.text
                return str(response.json()["outboxId"])

            with ThreadPoolExecutor(16) as pool:
                ids = dict(zip(pool.map(send, sent), sent, strict=True))
            kannel.wait_for(
                lambda: all(entry["deliveryStatus"] for entry in portal.log().values()),
                "a final receipt for each message",
                timeout_s=60,
            )
            log = portal.log()
            balance = portal.get("/api/billing/balance").json()
            attempts = Counter(len(portal.get(f"/api/sms/outbox/{outbox_id}").json()["attempts"]) for outbox_id in log)
            audit = portal.manage("audit")

        # Each message arrived exactly once, with its exact text.
        assert kannel.smsc.errors == []
        kannels_count = {}
        for carrier, arrived in (("smpp", join(kannel.smsc.parts)), ("fake", join(kannel.fake_parts))):
            assert arrived.keys() == {number for number in sent if carriers[number] == carrier}
            for number, messages in arrived.items():
                assert [text_of(message, sent[number]) for message in messages] == [sent[number].text]
                assert {part.sender for part in messages[0].parts} == {"MYBRAND"}
                kannels_count[number] = len(messages[0].parts)

    # Every receipt was applied, whichever order they came in.
    assert log.keys() == ids.keys()
    assert attempts == {1: MESSAGES}
    for outbox_id, entry in log.items():
        expected = ("failed", "undelivered") if ids[outbox_id] in undelivered else ("sent", "delivered")
        assert (entry["status"], entry["deliveryStatus"], entry["chargeStatus"]) == (*expected, "charged")

    # Our count is the standard's, and the differences to Kannel's are known by name.
    counted = {ids[outbox_id]: entry["smsUnitsUsed"] for outbox_id, entry in log.items()}
    assert counted == {number: text.standard_count() for number, text in sent.items()}
    different = {
        sent[number].name: (counted[number], kannels_count[number])
        for number in sent
        if counted[number] != kannels_count[number]
    }
    assert different == CUT_BY_KANNEL
    print(f"{MESSAGES} messages, {sum(counted.values())} segments; Kannel counts otherwise in: {different}")

    # Every cent is right.
    spent = sum(counted.values()) * PRICE
    assert Decimal(str(balance["balance"])) == opening - spent
    assert balance["held"] == 0
    assert audit.returncode == 0, audit.stdout + audit.stderr
