"""Models as data: what each takes, how it is watched and what it costs. Knows no database and no HTTP."""

from app.catalog.catalog import DEFAULT_MODEL, Catalog, open_catalog, shipped_catalog, unlisted
from app.catalog.check import CheckedRequest
from app.catalog.model import ImageRules, Model

__all__ = [
    "DEFAULT_MODEL",
    "Catalog",
    "CheckedRequest",
    "ImageRules",
    "Model",
    "open_catalog",
    "shipped_catalog",
    "unlisted",
]
