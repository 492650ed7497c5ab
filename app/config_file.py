"""The configuration file that `FLUXHOOK_CONFIG` names: what does not fit into one variable, such as several accounts.

It is TOML. It is checked as a whole at the start, and holds no secrets: it names the variables or files that do.
"""

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic import SecretStr as Secret

from app.errors import ConfigurationError
from app.setting_types import Url, check_provider_key, read_secret, sends_key_in_clear

SETTING = "FLUXHOOK_CONFIG"
Region = Literal["global", "eu", "us"]
Kind = Literal["bfl", "gptproto"]  # as the adapters are named

BFL_URL, GPTPROTO_URL = "https://api.bfl.ai", "https://gptproto.com"
_BFL_URLS: Mapping[Region, str] = {
    "global": BFL_URL,
    "eu": "https://api.eu.bfl.ai",
    "us": "https://api.us.bfl.ai",
}
_MAX_SLOTS = 10_000


def _kind(value: object) -> object:
    return "gptproto" if value == "flux-path" else value


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """What is configured for a provider account. `models`: the only ones that it serves, or None for all.

    `former_id`: the id of an account of the environment alone that has the same key.
    """

    id: str
    name: str
    kind: Kind
    url: str
    region: Region
    key: Secret | None  # None: no task can be submitted
    slots: int | None = None  # None: as the provider states
    slots_by_model: Mapping[str, int] = field(default_factory=dict)
    models: frozenset[str] | None = None
    former_id: str | None = None


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Account(_Section):
    """One `[[accounts]]` table: an account at a provider."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$", max_length=32)]
    kind: Annotated[Kind, BeforeValidator(_kind)] = "bfl"  # `flux-path`: GPTProto and providers with the same paths
    base_url: Url | None = None
    region: Region | None = None
    key_env: Annotated[str, Field(min_length=1)] | None = None  # the variable that holds the API key
    key_file: Path | None = None  # or the file that does
    slots: Annotated[int, Field(ge=1, le=_MAX_SLOTS)] | None = None  # tasks in flight; None: as the provider states
    slots_by_model: Mapping[str, Annotated[int, Field(ge=1, le=_MAX_SLOTS)]] = {}
    models: tuple[str, ...] | None = None  # the ids of the models that it serves; None: all

    @model_validator(mode="before")
    @classmethod
    def _has_no_key(cls, table: Any) -> Any:
        if isinstance(table, dict) and "key" in table:
            raise ValueError(
                "key: the file must not hold the API key: name a variable in key_env, or a file in key_file"
            )
        return table

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if (self.key_env is None) == (self.key_file is None):
            raise ValueError("give either key_env or key_file")
        if self.kind == "gptproto" and self.base_url is None:
            raise ValueError("base_url: required for this kind")
        if sends_key_in_clear(self.url):
            raise ValueError("base_url: must be https, because the API key is sent to it")
        stated = region_of(self.url) if self.kind == "bfl" else None
        if self.region is not None and stated is not None and stated != self.region:
            raise ValueError(f"region: is {self.region}, but base_url is the host of the region {stated}")
        if self.models is not None and not self.models:
            raise ValueError("models: must name at least one model, or be left out for all")
        return self

    @property
    def url(self) -> str:
        """The origin, and the path before that of the API, that requests and the key are sent to."""
        return self.base_url or _BFL_URLS[self.region or "global"]

    @property
    def located(self) -> Region:
        """The region that the account's tasks are processed in: as stated, else as its host is known for."""
        return self.region or (region_of(self.url) if self.kind == "bfl" else None) or "global"

    def resolved(self, env: Mapping[str, str]) -> "AccountSettings":
        """Return the account with its key. Raises ConfigurationError, which names the account."""
        key = self._key(env)
        return AccountSettings(
            id=f"acct:{self.name}",  # the key may be rotated, and the account stays
            name=self.name,
            kind=self.kind,
            url=self.url,
            region=self.located,
            key=key,
            slots=self.slots,
            slots_by_model=self.slots_by_model,
            models=None if self.models is None else frozenset(self.models),
            former_id=account_id(self.kind, key),
        )

    def _key(self, env: Mapping[str, str]) -> Secret:
        where = f"{SETTING}: accounts ({self.name})"
        if self.key_file is not None:
            text = read_secret(f"{where}: key_file", self.key_file)
        else:
            text = env.get(self.key_env or "", "")
            if not text:
                raise ConfigurationError(f"{where}: key_env: the variable {self.key_env} is not set")
        try:
            return check_provider_key(Secret(text))
        except ValueError as error:
            raise ConfigurationError(f"{where}: the API key {error}") from None


class OpenAi(_Section):
    """The table `[openai]`: how the API in OpenAI's form reads requests."""

    aliases: Mapping[str, str] = {}  # ids of models by the names that clients use; `default`: for requests without one


class ConfigFile(_Section):
    """The tables of the file."""

    accounts: tuple[Account, ...] = ()
    openai: OpenAi = OpenAi()

    @field_validator("accounts")
    @classmethod
    def _names_are_unique(cls, accounts: tuple[Account, ...]) -> tuple[Account, ...]:
        for name in _repeated(account.name for account in accounts):
            raise ValueError(f"two accounts have the name {name}")
        return accounts


def account_id(kind: Kind, key: Secret | None) -> str:
    """Return the id of an account that has no name, from its key; it does not reveal the key."""
    digest = hashlib.sha256((key.get_secret_value() if key else "").encode()).hexdigest()[:12]
    return f"{kind}:{digest}"


def region_of(url: str) -> Region | None:
    """Return the region of a host of BFL's API, or None for any other host."""
    labels = (urlsplit(url).hostname or "").split(".")
    match labels:
        case ["api", "bfl", "ai"]:
            return "global"
        case ["api", cluster, "bfl", "ai"]:
            return "eu" if cluster.startswith("eu") else "us" if cluster.startswith("us") else None
        case _:
            return None


def read_config(path: Path) -> ConfigFile:
    """Read and check the file. Raises ConfigurationError, which names the table and the member."""
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigurationError(f"{SETTING}: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # also UnicodeDecodeError and TOMLDecodeError
        raise ConfigurationError(f"{SETTING}: {path} is not valid TOML: {error}") from error
    try:
        return ConfigFile.model_validate(document)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        text = "; ".join(_explain(problem["loc"], problem["type"], problem["msg"], document) for problem in problems)
        raise ConfigurationError(f"{SETTING}: {path.name}: {text}") from None


def _explain(location: tuple[int | str, ...], kind: str, message: str, document: Any) -> str:
    """Return a problem as `accounts[1] (eu): slots: the reason`."""
    where: list[str] = []
    for part in location:
        document = _inside(document, part)
        if isinstance(part, int) and where:
            name = document.get("name") if isinstance(document, dict) else None
            where[-1] += f"[{part}]" + (f" ({name})" if isinstance(name, str) else "")
        else:
            where.append(str(part))
    if kind == "extra_forbidden":
        return ": ".join((*where, "unknown member"))
    if location == ("accounts",) and kind == "tuple_type":
        return "accounts: must be a list of tables: begin each account with [[accounts]]"
    text = message.removeprefix("Value error, ")
    return ": ".join((*where, text if text.startswith("FLUXHOOK") else f"{text[0].lower()}{text[1:]}"))


def _inside(document: Any, part: int | str) -> Any:
    try:
        return document[part]
    except (KeyError, IndexError, TypeError):
        return None


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
