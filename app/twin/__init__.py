"""The provider twin: BFL and GPTProto as the contract has them, played over HTTP from memory alone.

It edits real pictures, signs and retries real callbacks, and keeps a ledger of what it accepted, charged
and sent, so that a test can compare our record with the provider's. It shares nothing with the gateway but
the signature scheme: two readings of the contract that must agree.
"""

from app.twin.engine import Twin
from app.twin.faults import Faults
from app.twin.rules import Rules
from app.twin.server import build, create_twin_app

__all__ = ["Faults", "Rules", "Twin", "build", "create_twin_app"]
