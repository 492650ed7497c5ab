"""Image bytes, by digest: what is put here is on disk when the call returns, whole or not at all."""

from app.store.contract import BUCKETS, Missing, Store, sha256_of
from app.store.folder import FolderStore
from app.store.spool import Spool

__all__ = ["BUCKETS", "FolderStore", "Missing", "Spool", "Store", "sha256_of"]
