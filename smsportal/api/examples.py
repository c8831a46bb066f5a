"""What the OpenAPI document shows: answers of a real portal; tests compare their shape with today's answers."""

from typing import Any

OUTBOX_ID = "01a20fb9-ed27-7399-87bd-6844bcabda4b"
WEBHOOK_ID = "01a20fb9-f304-757a-863a-42bd876c7920"

SEND = {
    "recipientPhoneNumber": "+254712345678",
    "message": "Your code is 123456",
    "messageId": "order-7781",
    "tags": ["OTP"],
    "customData": {"purpose": "login", "linkedTransactionId": "txn789"},
}
QUOTE_OF = {"recipientPhoneNumber": "+254712345678", "message": "Your code is 123456"}
RESEND = {"outboxId": OUTBOX_ID}
CREATE_WEBHOOK = {"url": "https://your-app.example/hook", "events": ["sms.failed", "sms.delivered"]}
CHANGE_SETTINGS = {"lowBalanceThreshold": 50, "emailAlerts": True, "alertEmail": "ops@your-app.example"}

ENTRY: dict[str, Any] = {
    "outboxId": OUTBOX_ID,
    "userId": "01a20fb9-9807-7185-bef6-e1742d861fc7",
    "recipientPhoneNumber": "+254712345678",
    "message": "Your code is 123456",
    "senderId": "MYBRAND",
    "messageId": "order-7781",
    "messageName": None,
    "smsUnitsUsed": 1,
    "costPerUnit": 0.8,
    "totalCost": 0.8,
    "currency": "KES",
    "chargeStatus": "held",
    "encoding": "GSM-7",
    "status": "pending",
    "outcome": None,
    "deliveryStatus": None,
    "timestamps": {"createdAt": "2026-11-24T22:42:52.842738Z", "sentAt": None, "lastAttemptAt": None},
    "scheduledAt": None,
    "expiresAt": "2026-11-25T22:42:52.842738Z",
    "deliveredAt": None,
    "retryCount": 0,
    "maxRetries": 3,
    "errorCode": None,
    "errorDetails": None,
    "priority": "normal",
    "tags": ["OTP"],
    "customData": {"purpose": "login", "linkedTransactionId": "txn789"},
}
FAILED = ENTRY | {
    "chargeStatus": "released",
    "status": "failed",
    "timestamps": ENTRY["timestamps"] | {"lastAttemptAt": "2026-11-24T22:42:52.935186Z"},
    "errorCode": "provider_rejected",
    "errorDetails": "The simulator rejects numbers that end in 01.",
}
CANCELLED = ENTRY | {
    "chargeStatus": "released",
    "status": "failed",
    "scheduledAt": "2026-12-24T09:00:00Z",
    "expiresAt": "2026-12-25T09:00:00Z",
    "errorCode": "cancelled",
    "errorDetails": "Cancelled before it was handed to a provider.",
}
UNPAID = ENTRY | {
    "chargeStatus": "none",
    "status": "failed",
    "errorCode": "insufficient_balance",
    "errorDetails": "There was not enough money for it. Top up, then resend it.",
}
RESENT = ENTRY | {
    "timestamps": FAILED["timestamps"],
    "expiresAt": "2026-11-25T22:42:54.071084Z",
    "retryCount": 1,
}
HOLD = {
    "kind": "hold",
    "amount": 0.8,
    "balanceAfter": 1000.0,
    "reference": f"{OUTBOX_ID}/0",
    "createdAt": "2026-11-24T22:42:52.910490Z",
}
RELEASE = HOLD | {"kind": "release", "createdAt": "2026-11-24T22:42:52.969319Z"}
DETAIL = FAILED | {
    "attempts": [
        {
            "number": 1,
            "provider": "simulator",
            "startedAt": "2026-11-24T22:42:52.938245Z",
            "finishedAt": "2026-11-24T22:42:52.951055Z",
            "outcome": "rejected",
            "providerMessageId": None,
            "errorCode": "provider_rejected",
        }
    ],
    "ledger": [HOLD, RELEASE],
}
OUTBOX_PAGE = {
    "next": "https://sms.example.com/api/sms/outbox?cursor=cD0wMWEyMGZiOS1mMjIx&pageSize=1",
    "previous": None,
    "results": [ENTRY],
}
CSV = (
    "outboxId,createdAt,recipientPhoneNumber,senderId,message,messageId,messageName,status,outcome,deliveryStatus,"
    "errorCode,encoding,smsUnitsUsed,costPerUnit,totalCost,currency,chargeStatus,scheduledAt,lastAttemptAt,sentAt,"
    "deliveredAt,retryCount,tags,customData\r\n"
    f"{OUTBOX_ID},2026-11-24T22:42:52Z,+254712345678,MYBRAND,Your parcel is here,parcel-12,,failed,,,"
    "provider_rejected,GSM-7,1,0.8,0.8,KES,released,,2026-11-24T22:42:54Z,,,1,,\r\n"
)
QUOTE = {
    "encoding": "GSM-7",
    "smsUnitsUsed": 1,
    "costPerUnit": 0.8,
    "totalCost": 0.8,
    "currency": "KES",
    "balanceAfter": 999.2,
    "charactersForcingUcs2": [],
    "priceRule": {"prefix": "+254", "effectiveFrom": "2026-11-24T22:42:31.310003Z"},
}

BALANCE = {
    "balance": 1000.0,
    "held": 0.8,
    "available": 999.2,
    "currency": "KES",
    "unitsLeft": 399,
    "lowBalanceThreshold": 10.0,
}
STATEMENT = {
    "next": "https://sms.example.com/api/billing/statement?cursor=cD05&pageSize=2",
    "previous": None,
    "results": [RELEASE, HOLD],
}
PRICES = {
    "currency": "KES",
    "prices": [
        {"prefix": "default", "costPerUnit": 2.5, "effectiveFrom": "2026-11-24T22:42:31.307144Z"},
        {"prefix": "+254", "costPerUnit": 0.8, "effectiveFrom": "2026-11-24T22:42:31.310003Z"},
    ],
}

SETTINGS = {
    "lowBalanceThreshold": 10.0,
    "maxRetries": 3,
    "failureAlerts": True,
    "emailAlerts": False,
    "alertEmail": "",
}
SETTINGS_CHANGED = SETTINGS | CHANGE_SETTINGS
ALERT = {
    "alertId": "2",
    "kind": "sms.failed",
    "level": "warning",
    "text": "Messages failed. Each of them says why, and can be sent again.",
    "count": 1,
    "createdAt": "2026-11-24T22:42:54.163903Z",
    "readAt": None,
    "endedAt": None,
}
ALERT_READ = ALERT | {"readAt": "2026-11-24T22:43:10.322205Z", "endedAt": "2026-11-24T22:43:10.323735Z"}
ALERTS = {"results": [ALERT]}

WEBHOOK = {
    "webhookId": WEBHOOK_ID,
    "url": "https://your-app.example/hook",
    "events": ["sms.failed", "sms.delivered"],
    "createdAt": "2026-11-24T22:42:54.341186Z",
    "disabledAt": None,
    "disabledReason": None,
}
NEW_WEBHOOK = WEBHOOK | {"secret": "whsec_shown-this-once-keep-it-for-verifying"}
WEBHOOKS = {"results": [WEBHOOK]}
DELIVERY = {
    "deliveryId": "01a20fb9-f325-76ff-991e-a1470ec2c5a5",
    "event": "test",
    "body": '{"type":"test","timestamp":"2026-11-24T22:42:54.372962Z","data":{}}',
    "createdAt": "2026-11-24T22:42:54.373703Z",
    "deliveredAt": None,
    "nextAttemptAt": "2026-11-24T22:42:54.373703Z",
    "attempts": 0,
    "lastStatus": None,
    "lastError": None,
}
DELIVERIES = {"next": None, "previous": None, "results": [DELIVERY]}

# What problems have besides RFC 9457's own members, by their code.
MEMBERS: dict[str, dict[str, Any]] = {
    "invalid": {
        "errors": [
            {
                "field": "recipientPhoneNumber",
                "code": "too_short",
                "message": "The number is too short; short codes and numbers without their area code cannot be "
                "reached.",
            }
        ]
    },
    "insufficient_balance": {"required": 0.8, "available": 0.2, "currency": "KES", "outbox": UNPAID},
    "not_failed": {"outcome": None, "outbox": ENTRY},
    "not_cancellable": {"outbox": ENTRY},
    "retry_limit_reached": {"retryCount": 3, "maxRetries": 3},
    "max_total_cost_exceeded": {"totalCost": 1.6, "currency": "KES"},
    "too_many_segments": {"smsUnitsUsed": 7},
    "scope_missing": {"scope": "send"},
    "rate_limited": {"limit": "perUser", "retryAfter": 7},
    "duplicate_message": {"duplicateOf": OUTBOX_ID, "retryAfter": 41},
}
