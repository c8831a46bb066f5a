"""How people come in: passwords and how often they may be tried, the second factor, and the way into the admin."""
