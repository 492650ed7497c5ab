"""Stores for image bytes, in which a write is complete or absent, and the local disk: spool, uploads, reserve."""

from app.store.contract import BUCKETS, Missing, Presigner, Store, sha256_of
from app.store.disk_reserve import DiskReserve
from app.store.folder import FolderStore
from app.store.spool import Spool
from app.store.uploads import Uploads

__all__ = ["BUCKETS", "DiskReserve", "FolderStore", "Missing", "Presigner", "Spool", "Store", "Uploads", "sha256_of"]
