"""Webhooks: a user's own addresses, told of events as the Standard Webhooks specification 1.0 has it."""
