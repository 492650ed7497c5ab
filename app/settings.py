"""The settings of an installation: one frozen value, read from `FLUXHOOK_` variables and validated as a whole.

A secret may also be in a file, which a variable with the suffix `_FILE` names.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import (
    ConfigDict,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic import SecretStr as Secret

from app.config_file import AccountSettings, ConfigFile, account_id, read_config, region_of
from app.errors import ConfigurationError
from app.setting_list import SettingList
from app.setting_types import (
    is_on_private_host,
    names_private_host,
    read_secret,
    sends_key_in_clear,
)

PREFIX = "FLUXHOOK_"
FILE_SUFFIX = "_FILE"
# The service that the client commands call. They may be in the environment of the service too, which ignores them.
CLIENT_URL, CLIENT_KEY, CLIENT_KEY_FILE = f"{PREFIX}URL", f"{PREFIX}API_KEY", f"{PREFIX}API_KEY{FILE_SUFFIX}"
CALLBACK_SECRET = f"{PREFIX}CALLBACK_SECRET"  # what `fluxhook verify-callback` verifies with
_OF_CLIENTS = frozenset({CLIENT_URL, CLIENT_KEY, CLIENT_KEY_FILE, CALLBACK_SECRET})
# The settings that may be in a file.
SECRETS = (
    *("bfl_api_key", "gptproto_api_key", "secret_keys", "admin_key"),
    *("database_url", "database_direct_url", "https_proxy"),
)
_MIN_SECRET = 32
_BUCKETS = {"s3", "gs", "az"}
_POSTGRES = {"postgresql", "postgres"}


class Settings(SettingList):
    """The settings of an installation, validated as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    _file: ConfigFile = PrivateAttr(default_factory=ConfigFile)
    _accounts: tuple[AccountSettings, ...] = PrivateAttr(default=())

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the `FLUXHOOK_` names of a mapping, and the files of secrets. An empty value counts as not set.

        Raises ConfigurationError, which names each invalid or unknown setting, or a file that cannot be read or is
        invalid.
        """
        values: dict[str, Any] = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in env.items()
            if name.startswith(PREFIX) and value != "" and name not in _OF_CLIENTS
        }
        for name in SECRETS:
            file = values.pop(f"{name}{FILE_SUFFIX.lower()}", None)
            if file is not None:
                values[name] = _read_secret(name, Path(file), is_set=name in values)
        file = read_config(Path(values["config"])) if "config" in values else ConfigFile()
        for account in file.accounts:
            name = (account.key_env or "").removeprefix(PREFIX).lower()
            if name not in cls.model_fields:
                values.pop(name, None)  # a variable of the operator that begins like a setting
        try:
            return cls.model_validate(values, context=_Context(file, env))
        except ValidationError as error:
            raise ConfigurationError(_explain(error)) from None

    @model_validator(mode="after")
    def _takes_the_file(self, info: ValidationInfo) -> Self:
        context = info.context
        if isinstance(context, _Context):
            self._file = context.file
            self._accounts = tuple(account.resolved(context.env) for account in context.file.accounts)
        return self

    @model_validator(mode="after")
    def _secret_keys_are_long(self) -> Self:
        if any(len(key.get_secret_value()) < _MIN_SECRET for key in self.secret_keys):
            raise ValueError(f"FLUXHOOK_SECRET_KEYS: each key must have at least {_MIN_SECRET} characters")
        return self

    @model_validator(mode="after")
    def _database_is_supported(self) -> Self:
        scheme = (self.database_url or "").partition(":")[0].partition("+")[0]
        if not self.embedded and scheme not in _POSTGRES:
            raise ValueError("FLUXHOOK_DATABASE_URL: must begin with sqlite:/// or postgresql://")
        if self.database_direct_url is not None:
            if self.embedded:
                raise ValueError("FLUXHOOK_DATABASE_DIRECT_URL: needs a PostgreSQL in FLUXHOOK_DATABASE_URL")
            if self.database_direct_url.partition(":")[0].partition("+")[0] not in _POSTGRES:
                raise ValueError("FLUXHOOK_DATABASE_DIRECT_URL: must begin with postgresql://")
        return self

    @model_validator(mode="after")
    def _postgres_has_secret_keys(self) -> Self:
        if not self.embedded and not self.secret_keys:
            raise ValueError(
                "FLUXHOOK_SECRET_KEYS: required on PostgreSQL, where every replica must derive the same secrets; "
                "create a key with `openssl rand -hex 32`"
            )
        return self

    @model_validator(mode="after")
    def _provider_url_is_encrypted(self) -> Self:
        if sends_key_in_clear(self._provider_url):
            raise ValueError(
                f"FLUXHOOK_{self.provider.upper()}_BASE_URL: must be https, because the API key is sent to it"
            )
        return self

    @model_validator(mode="after")
    def _presigned_links_need_a_bucket(self) -> Self:
        if self.links == "presigned" and (self.store_url or "").partition(":")[0] not in _BUCKETS:
            raise ValueError(
                "FLUXHOOK_LINKS: presigned links lead to a bucket, but the images are in a folder: set "
                "FLUXHOOK_STORE_URL to s3://, gs:// or az://, or leave FLUXHOOK_LINKS out"
            )
        return self

    @model_validator(mode="after")
    def _public_url_is_reachable(self) -> Self:
        if self.public_url is None or self.twin:
            return self
        public = urlsplit(self.public_url)
        if public.scheme != "https":
            raise ValueError("FLUXHOOK_PUBLIC_URL: must be https, because callback URLs contain a token")
        if names_private_host(public.hostname or ""):
            raise ValueError(
                "FLUXHOOK_PUBLIC_URL: the provider cannot reach a private host; set a public host, "
                "or leave the setting empty and Fluxhook polls"
            )
        return self

    @property
    def embedded(self) -> bool:
        """Whether the database is SQLite, which runs in the process of Fluxhook."""
        return self.database_url is None or self.database_url.startswith("sqlite:")

    @property
    def file(self) -> ConfigFile:
        """The tables of the file that CONFIG names; empty without it."""
        return self._file

    @property
    def accounts(self) -> tuple[AccountSettings, ...]:
        """The provider accounts, in order: those of the file, else the one of the environment."""
        if self._accounts:
            return self._accounts
        url = self._provider_url
        return (
            AccountSettings(
                id=account_id(self.provider, self._provider_key),
                name=self.provider,
                kind=self.provider,
                url=url,
                region=(region_of(url) if self.provider == "bfl" else None) or "global",
                key=self._provider_key,
            ),
        )

    @property
    def environment_alone(self) -> bool:
        """Whether the only account is that of the environment, because the file lists none."""
        return not self._accounts

    @property
    def twin(self) -> bool:
        """Whether every account is on a private host, as the twin is, so that there is no real provider."""
        return all(is_on_private_host(account.url) for account in self.accounts)

    @property
    def _provider_url(self) -> str:
        return self.bfl_base_url if self.provider == "bfl" else self.gptproto_base_url

    @property
    def _provider_key(self) -> Secret | None:
        return self.bfl_api_key if self.provider == "bfl" else self.gptproto_api_key


@dataclass(frozen=True, slots=True)
class _Context:
    """The configuration file, and the environment that holds the keys which it names."""

    file: ConfigFile
    env: Mapping[str, str]


def _read_secret(name: str, path: Path, *, is_set: bool) -> str:
    """Return the content of a file without the line end at its end. Raises ConfigurationError."""
    setting = f"{PREFIX}{name.upper()}"
    if is_set:
        raise ConfigurationError(f"{setting}: set it or {setting}{FILE_SUFFIX}, not both")
    return read_secret(f"{setting}{FILE_SUFFIX}", path)


def _explain(error: ValidationError) -> str:
    return "; ".join(_explain_one(dict(problem)) for problem in error.errors(include_input=False, include_url=False))


def _explain_one(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = f"{PREFIX}{str(error['loc'][0]).upper()}"
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown setting"
    return f"{name}: {message[0].lower()}{message[1:]}"


def from_environment() -> Settings:
    """Return the settings from the environment of this process."""
    return Settings.from_env(os.environ)
