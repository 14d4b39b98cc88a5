"""The web application: uploads, orders, encryption, tiers and deletion."""
