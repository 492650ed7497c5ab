"""The provider accounts that are configured, in the order in which they are given tasks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import httpx

from app.catalog import Catalog
from app.config_file import AccountSettings, Region
from app.provider.bfl import Bfl
from app.provider.contract import Provider, ProviderSpec
from app.provider.gptproto import Gptproto
from app.security.verify import SigningProfile

ALL_MODELS = "account"  # the name of the limit for all models together
_ADAPTERS: Mapping[str, Callable[[httpx.AsyncClient, str, str], Provider]] = {"bfl": Bfl, "gptproto": Gptproto}


@dataclass(frozen=True, slots=True)
class Account:
    """An account of a provider. `limits`: tasks in flight at most, under "account" in all, and by model.

    `provider` is None without an API key: no task can be submitted.
    """

    id: str
    name: str
    provider: Provider | None
    spec: ProviderSpec
    url: str  # the configured origin, which receives the API key
    limits: Mapping[str, int]
    region: Region = "global"
    models: frozenset[str] | None = None  # the only ones that it serves; None: all
    former_id: str | None = None  # the id of an account of the environment alone with the same key

    def serves(self, model: str, region: str | None = None) -> bool:
        """Whether tasks of a model may run here. `region`: the only one that they may run in; None: any."""
        return (self.models is None or model in self.models) and region in {None, self.region}


@dataclass(frozen=True, slots=True)
class Accounts:
    """All accounts, in order; at least one. `named`: they come from the configuration file."""

    in_order: tuple[Account, ...]
    named: bool = False
    _by_id: Mapping[str, Account] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        former = {account.former_id: account for account in reversed(self.in_order) if account.former_id is not None}
        object.__setattr__(self, "_by_id", {**former, **{account.id: account for account in self.in_order}})

    def __iter__(self) -> Iterator[Account]:
        return iter(self.in_order)

    def get(self, account_id: str) -> Account | None:
        """Return the account with this id, or None if it is no longer configured.

        The only account of the environment stands for each: its id follows from its key, which may have been replaced.
        """
        return self._by_id.get(account_id) or (None if self.named else self.in_order[0])

    def serving(self, model: str, region: str | None = None) -> list[Account]:
        """Return the accounts that serve a model, in order; with `region`, only those in it."""
        return [account for account in self.in_order if account.serves(model, region)]

    @property
    def can_submit(self) -> bool:
        """Whether at least one account has a key."""
        return any(account.provider is not None for account in self.in_order)

    @property
    def signing(self) -> SigningProfile:
        """How the providers sign callbacks. It is the same for all: a callback does not say from which one it comes."""
        return self.in_order[0].spec.signing

    @property
    def origins(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(account.url for account in self.in_order))

    @property
    def result_hosts(self) -> tuple[str, ...]:
        """The usual hosts of results, of all providers."""
        return tuple(dict.fromkeys(host for account in self.in_order for host in account.spec.result_hosts))


def open_accounts(settings: Iterable[AccountSettings], catalog: Catalog, http: httpx.AsyncClient) -> Accounts:
    """Return the accounts with their adapters, which send their requests by `http`."""
    in_order = tuple(_opened(account, catalog, http) for account in settings)
    return Accounts(in_order, named=any(account.former_id is not None for account in in_order))


def _opened(settings: AccountSettings, catalog: Catalog, http: httpx.AsyncClient) -> Account:
    return Account(
        id=settings.id,
        name=settings.name,
        provider=build_provider(settings, http),
        spec=provider_spec(settings),
        url=settings.url,
        limits=slot_limits(settings, catalog),
        region=settings.region,
        models=settings.models,
        former_id=settings.former_id,
    )


def build_provider(settings: AccountSettings, http: httpx.AsyncClient) -> Provider | None:
    """Return the adapter of an account; None if it has no key."""
    if settings.key is None:
        return None
    return _ADAPTERS[settings.kind](http, settings.url, settings.key.get_secret_value())


def provider_spec(settings: AccountSettings) -> ProviderSpec:
    return Bfl.spec if settings.kind == "bfl" else Gptproto.spec


def slot_limits(settings: AccountSettings, catalog: Catalog) -> dict[str, int]:
    """Return the maximum number of tasks in flight: of the account under "account", and of models with one."""
    own = {} if settings.slots is None else {ALL_MODELS: settings.slots}
    return {**provider_spec(settings).slots, **own, **catalog.slots, **settings.slots_by_model}
