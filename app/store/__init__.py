"""Stores for image bytes, in a folder or a bucket, where a write is complete or absent; the spool and uploads."""

from app.store.contract import BUCKETS, Missing, Store, sha256_of
from app.store.folder import FolderStore
from app.store.spool import Spool
from app.store.uploads import Uploads

__all__ = ["BUCKETS", "FolderStore", "Missing", "Spool", "Store", "Uploads", "sha256_of"]
