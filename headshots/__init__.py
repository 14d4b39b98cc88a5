"""The web application: uploads, orders, encryption, tiers and deletion."""

__version__ = "0.1.0"  # as in pyproject.toml, which a checkout cannot be asked for
