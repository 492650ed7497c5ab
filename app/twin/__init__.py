"""The twin: a stand-in for BFL and GPTProto that follows their contract over HTTP and keeps everything in memory.

It edits images, signs and retries callbacks, and keeps a ledger of what it accepted, charged and sent, so that a test
can compare the records of Fluxhook with those of the provider. It shares only the signature scheme with Fluxhook: both
implement the contract independently and have to agree.
"""

from app.twin.engine import Twin
from app.twin.faults import Faults
from app.twin.rules import Rules
from app.twin.server import build, create_twin_app
from app.twin.task import TRIGGER_WORDS

__all__ = ["TRIGGER_WORDS", "Faults", "Rules", "Twin", "build", "create_twin_app"]
