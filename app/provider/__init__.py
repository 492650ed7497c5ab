"""Provider adapters behind one contract: their specifications (as data), requests to them, and their responses."""

from app.provider.accounts import Account, Accounts, open_accounts
from app.provider.bfl import Bfl
from app.provider.contract import Provider, ProviderResponse, ProviderSpec, Reference, SubmitRequest
from app.provider.gptproto import Gptproto
from app.provider.instrumented import observed

__all__ = [
    "Account",
    "Accounts",
    "Bfl",
    "Gptproto",
    "Provider",
    "ProviderResponse",
    "ProviderSpec",
    "Reference",
    "SubmitRequest",
    "observed",
    "open_accounts",
]
