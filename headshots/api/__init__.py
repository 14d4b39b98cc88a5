"""The JSON API under /api/v1: the services of the pages, one error shape, OpenAPI and docs served locally."""

from headshots.api.routes import api

__all__ = ["api"]
