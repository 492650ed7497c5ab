"""The providers behind one contract: what they promise (as data), what they are asked, what they answered."""

from app.provider.bfl import Bfl
from app.provider.contract import Provider, ProviderResponse, ProviderSpec, Reference, SubmitRequest
from app.provider.gptproto import Gptproto
from app.provider.instrumented import observed

__all__ = ["Bfl", "Gptproto", "Provider", "ProviderResponse", "ProviderSpec", "Reference", "SubmitRequest", "observed"]
