#!/usr/bin/env python
"""Django's command line for this project."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "smsportal.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        # A setting is missing: a sentence helps more than a traceback.
        sys.exit(
            f"{error}\nSet DATABASE_URL and SECRET_KEY, in the environment or in .env; README.md lists all settings."
        )
