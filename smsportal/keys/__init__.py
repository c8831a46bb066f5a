"""Keys, as people meet them: the pages under Settings, and the admin. What a key is stands in smsportal/models.py."""
