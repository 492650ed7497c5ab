"""Image bytes, by digest: what is put here is on disk when the call returns, whole or not at all."""

from app.store.aside import Aside
from app.store.contract import Missing, Store, sha256_of
from app.store.folder import FolderStore
from app.store.objects import BUCKETS, ObjectStore

__all__ = ["BUCKETS", "Aside", "FolderStore", "Missing", "ObjectStore", "Store", "sha256_of"]
