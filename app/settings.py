"""The settings of an installation: one frozen value, read from `FLUXHOOK_` variables and validated as a whole.

A secret may also be in a file, which a variable with the suffix `_FILE` names.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic import SecretStr as Secret

from app.errors import ConfigurationError

PREFIX = "FLUXHOOK_"
FILE_SUFFIX = "_FILE"
# The settings that may be in a file.
SECRETS = (
    *("bfl_api_key", "gptproto_api_key", "secret_keys", "admin_key"),
    *("database_url", "database_direct_url", "https_proxy"),
)
_MIN_SECRET = 32
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_MAX_AWAIT_EVIDENCE_S = 31 * 86_400
_POSTGRES = {"postgresql", "postgres"}


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise ValueError("must be an http(s) URL such as https://fluxhook.example.com")
    if "?" in url or "#" in url:
        raise ValueError("must not have a query or a fragment: remove everything after the path")
    _ = parts.port  # raises ValueError if it is out of range
    if any(character.isspace() for character in url):
        raise ValueError("must not contain spaces")
    return url.rstrip("/")


def _valid_provider_key(key: Secret) -> Secret:
    text = key.get_secret_value()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be printable ASCII without spaces or line breaks, because it is sent in an HTTP header")
    if not text.strip("."):
        raise ValueError("is the placeholder of the instructions: set it to the API key of your provider account")
    return key


def _valid_admin_key(key: Secret) -> Secret:
    """Allow spaces inside the key, because some installations use such keys, but not around it: HTTP strips those."""
    text = key.get_secret_value()
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("must be printable ASCII without spaces around it, because clients send it in an HTTP header")
    return key


def _valid_proxy_url(url: Secret) -> Secret:
    text = url.get_secret_value()
    try:
        parts = urlsplit(text)
        has_origin = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its message may show a part of the password
        has_origin = False
    if not has_origin or parts.path.strip("/") or "?" in text or "#" in text:
        raise ValueError(
            "must be the URL of an http(s) proxy such as http://proxy.example.com:3128, without a path; "
            "special characters of the user name and the password must be percent-encoded"
        )
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be printable ASCII without spaces")
    return url


def _valid_contact(contact: str) -> str:
    if not contact.isascii() or not contact.isprintable() or set(contact) & set(" ()"):
        raise ValueError("must be printable ASCII without spaces or brackets, because it is sent in an HTTP header")
    return contact


def _valid_host_name(name: str) -> str:
    if not _HOST.fullmatch(name):
        raise ValueError("must be host names such as cdn.example.com or *.example.com, without scheme, port or path")
    return name


Url = Annotated[str, AfterValidator(_base_url)]
ProviderKey = Annotated[Secret, AfterValidator(_valid_provider_key)]
ProxyUrl = Annotated[Secret, AfterValidator(_valid_proxy_url)]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(_valid_host_name)], ...], BeforeValidator(_split)]
Secrets = Annotated[tuple[Secret, ...], BeforeValidator(_split)]
Networks = Annotated[
    tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], BeforeValidator(_split), Field(default=())
]


class Settings(BaseModel):
    """All settings. Each is read from an environment variable with the prefix `FLUXHOOK_`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    database_url: Annotated[
        str | None,
        # The URL may contain a password, so it is not shown.
        Field(
            repr=False, description="The database: `sqlite:///PATH` or `postgresql://...`. Default: SQLite in DATA_DIR."
        ),
    ] = None
    database_direct_url: Annotated[
        str | None,
        Field(
            repr=False,
            description="The database's address past a connection pooler, for LISTEN and migrations. Default: none.",
        ),
    ] = None
    statement_seconds: Annotated[
        int,
        Field(ge=1, description="Seconds for a statement or a commit on PostgreSQL; ten times as many to migrate."),
    ] = 30
    data_dir: Annotated[Path, Field(description="The folder for the SQLite database, images and generated keys.")] = (
        Path("data")
    )
    store_url: Annotated[
        str | None,
        Field(description="The image store: a folder, or `s3://`, `gs://`, `az://`. Default: `images` in DATA_DIR."),
    ] = None
    public_url: Annotated[
        Url | None,
        Field(description="The URL at which the provider reaches this service. Without it, Fluxhook polls."),
    ] = None
    provider: Annotated[
        Literal["bfl", "gptproto"],
        Field(description="The image provider: `bfl` (Black Forest Labs) or `gptproto` (GPTProto)."),
    ] = "bfl"
    bfl_api_key: Annotated[ProviderKey | None, Field(description="The API key for Black Forest Labs.")] = None
    bfl_base_url: Annotated[
        Url,
        Field(description="The base URL of the Black Forest Labs API: the global host, a regional host, or a twin."),
    ] = "https://api.bfl.ai"
    gptproto_api_key: Annotated[ProviderKey | None, Field(description="The API key for GPTProto.")] = None
    gptproto_base_url: Annotated[
        Url, Field(description="The base URL of the GPTProto API, or of a reseller with the same path layout.")
    ] = "https://gptproto.com"
    secret_keys: Annotated[
        Secrets,
        Field(description="Keys for secrets and tokens, newest first. SQLite default: generated, saved in DATA_DIR."),
    ] = ()
    admin_key: Annotated[
        Annotated[Secret, AfterValidator(_valid_admin_key)] | None,
        Field(description="An API key with full access. SQLite default: generated, printed once, saved in DATA_DIR."),
    ] = None
    shared_secret_callbacks: Annotated[
        Literal["accept", "hint"],
        Field(
            description="The secret in a header proves a callback (`accept`), or only triggers a poll (`hint`): "
            "as BFL sends no other proof, every task is then polled."
        ),
    ] = "accept"  # noqa: S105 - a choice, not a secret
    send_webhook_secret: Annotated[
        bool,
        Field(
            description="Send the secret of an application along with its webhooks, in `X-Webhook-Secret`, as BFL does."
        ),
    ] = True
    hold_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            le=_MAX_AWAIT_EVIDENCE_S,
            description="Seconds to wait for a callback after a lost submit answer. "
            "Default: the longest time of the model and 156.",
        ),
    ] = None
    result_hosts: Annotated[
        Hosts,
        Field(
            description="If set, the only hosts besides the provider's that results may come from: `name` or `*.name`."
        ),
    ] = ()
    egress_allow: Annotated[
        Networks,
        Field(description="Private networks that URLs of input images, webhooks and results may point to, as CIDRs."),
    ]
    ca_file: Annotated[
        Path | None,
        Field(description="A PEM file of authorities that outgoing requests trust in addition to the public ones."),
    ] = None
    https_proxy: Annotated[
        ProxyUrl | None,
        Field(description="The proxy for requests to public hosts: `http://[USER:PASSWORD@]HOST:PORT`, or `https://`."),
    ] = None
    contact: Annotated[
        Annotated[str, AfterValidator(_valid_contact)] | None,
        Field(
            description="A URL or e-mail address, sent to hosts of input images as the contact. Default: PUBLIC_URL."
        ),
    ] = None
    link_days: Annotated[
        int, Field(ge=1, le=3650, description="Days for which an image link that needs no API key is valid.")
    ] = 7
    evidence_days: Annotated[
        int | None,
        Field(
            ge=1,
            le=3650,
            description="Days for which the evidence of a finished task is kept. Default: no limit.",
        ),
    ] = None
    models_file: Annotated[
        Path | None,
        Field(description="A JSON or TOML file whose rows add models or replace those that ship. Default: none."),
    ] = None
    unknown_models: Annotated[
        Literal["refuse", "pass"],
        Field(
            description="Models without a row at the provider-compatible API: `refuse`, or `pass` them to the provider."
        ),
    ] = "refuse"
    host: Annotated[str, Field(description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="The port to listen on.")] = 8080
    metrics_port: Annotated[
        int | None,
        Field(
            ge=0, le=65535, description="The port on which `fluxhook work` serves Prometheus metrics. Default: none."
        ),
    ] = None

    max_uploads: Annotated[
        int,
        Field(
            ge=1, description="Maximum number of bodies above 64 KB received at once. Others wait 10 s, then get 503."
        ),
    ] = 32
    max_uploads_mb: Annotated[
        int, Field(ge=1, description="Maximum total size in MB of bodies received at once. They lie in DATA_DIR.")
    ] = 512

    max_connections: Annotated[
        int, Field(ge=1, description="Maximum number of connections. One more ends the one that has waited longest.")
    ] = 1000
    max_head_kb: Annotated[
        int, Field(ge=1, description="Maximum size of a request's head in KB, trailers included.")
    ] = 16
    max_headers: Annotated[int, Field(ge=1, description="Maximum number of headers of a request.")] = 100
    head_seconds: Annotated[int, Field(ge=1, description="Seconds in which the head of a request must arrive.")] = 15
    stall_seconds: Annotated[
        int,
        Field(ge=1, description="Seconds for which a client may stop in a body; ten times as many for reading."),
    ] = 30
    min_body_rate_kb: Annotated[
        int, Field(ge=1, description="KB per second at which a body must arrive on average, beside STALL_SECONDS.")
    ] = 16
    idle_seconds: Annotated[
        int, Field(ge=1, description="Seconds after which a connection without a request is closed.")
    ] = 75
    disk_reserve_mb: Annotated[
        int | None,
        Field(
            ge=0,
            description="Disk space in MB below which no tasks are accepted. Default: 512, or a tenth of the disk.",
        ),
    ] = None

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the `FLUXHOOK_` names of a mapping, and the files of secrets. An empty value counts as not set.

        Raises ConfigurationError, which names each invalid or unknown setting, or a file that cannot be read.
        """
        values: dict[str, Any] = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in env.items()
            if name.startswith(PREFIX) and value != ""
        }
        for name in SECRETS:
            file = values.pop(f"{name}{FILE_SUFFIX.lower()}", None)
            if file is not None:
                values[name] = _read_secret(name, Path(file), is_set=name in values)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigurationError(_explain(error)) from None

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
        if self.provider_url.scheme == "http" and not names_private_host(self.provider_url.hostname or ""):
            raise ValueError(
                f"FLUXHOOK_{self.provider.upper()}_BASE_URL: must be https, because the API key is sent to it"
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
    def provider_url(self) -> SplitResult:
        return urlsplit(self.bfl_base_url if self.provider == "bfl" else self.gptproto_base_url)

    @property
    def provider_key(self) -> str | None:
        key = self.bfl_api_key if self.provider == "bfl" else self.gptproto_api_key
        return key.get_secret_value() if key else None

    @property
    def twin(self) -> bool:
        """Whether the provider is on a private host, as the twin is, so that it is not a real provider."""
        return names_private_host(self.provider_url.hostname or "")


def names_private_host(host: str) -> bool:
    """Whether a host is reachable only from a private network, judged by its name or IP address alone."""
    host = host.rstrip(".").lower()
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        private_suffixes = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
        return "." not in host or host.endswith(private_suffixes) or _is_numeric_ipv4(host)


def _read_secret(name: str, path: Path, *, is_set: bool) -> str:
    """Return the content of a file without the line end at its end. Raises ConfigurationError."""
    setting = f"{PREFIX}{name.upper()}"
    if is_set:
        raise ConfigurationError(f"{setting}: set it or {setting}{FILE_SUFFIX}, not both")
    try:
        text = path.read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{setting}{FILE_SUFFIX}: {path} cannot be read: {why}") from error
    if not text:
        raise ConfigurationError(f"{setting}{FILE_SUFFIX}: {path} is empty")
    return text


def _is_numeric_ipv4(host: str) -> bool:
    """Whether this is an IPv4 address in a form that only resolvers accept: 127.1, 0x7f.0.0.1, 2130706433."""
    last = host.rpartition(".")[2]
    return last.isdecimal() or last.startswith("0x")


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
