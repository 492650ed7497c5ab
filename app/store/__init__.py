"""Stores for image bytes, in a folder or a bucket, and the spool on local disk. A write is complete or absent."""

from app.store.contract import BUCKETS, Missing, Store, sha256_of
from app.store.folder import FolderStore
from app.store.spool import Spool

__all__ = ["BUCKETS", "FolderStore", "Missing", "Spool", "Store", "sha256_of"]
