"""Alerts: what a user is told, how, and from when on."""
