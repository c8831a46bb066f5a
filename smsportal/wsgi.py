"""The site for one thread: what `asgi.py` hands each whole request to."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "smsportal.settings")

application = get_wsgi_application()
