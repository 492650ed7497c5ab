from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import settings as settings_module
from app.cli.doctor.command import describe
from app.errors import ConfigurationError
from app.setting_types import names_private_host
from app.settings import Settings

KEY = "k" * 32
TWIN = {"BFL_BASE_URL": "http://twin:9000"}
# Names that the README, the container and users' scripts depend on.
CONTRACT = [
    "DATABASE_URL",
    "DATA_DIR",
    "STORE_URL",
    "PUBLIC_URL",
    "PROVIDER",
    "BFL_API_KEY",
    "BFL_BASE_URL",
    "GPTPROTO_API_KEY",
    "GPTPROTO_BASE_URL",
    "SECRET_KEYS",
    "ADMIN_KEY",
    "SHARED_SECRET_CALLBACKS",
    "SEND_WEBHOOK_SECRET",
    "HOST",
    "PORT",
]
SECRETS = {
    "BFL_API_KEY": "bfl-key-hidden",
    "GPTPROTO_API_KEY": "gptproto-key-hidden",
    "SECRET_KEYS": "ring-key-hidden-" + KEY,
    "ADMIN_KEY": "admin-key-hidden-in-errors",
    "DATABASE_URL": "postgresql://fluxhook:password-hidden@db/fluxhook",
    "DATABASE_DIRECT_URL": "postgresql://fluxhook:password-hidden@db/fluxhook",
    "HTTPS_PROXY": "http://fluxhook:password-hidden@proxy:3128",
}


def read(**values: str) -> Settings:
    return Settings.from_env({f"FLUXHOOK_{name}": value for name, value in values.items()})


def refusal(**values: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        read(**values)
    return refused.value.detail


# Reading


def test_no_setting_is_required() -> None:
    settings = Settings.from_env({})

    assert (settings.provider, settings.embedded, settings.public_url) == ("bfl", True, None)
    assert [(account.name, account.key) for account in settings.accounts] == [("bfl", None)]


@pytest.mark.parametrize("name", CONTRACT)
def test_every_name_of_the_contract_is_a_setting(name: str) -> None:
    assert name.lower() in Settings.model_fields


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_has_a_description_that_is_a_sentence(name: str) -> None:
    assert (Settings.model_fields[name].description or "").endswith(".")


def test_variables_without_the_prefix_are_ignored() -> None:
    assert Settings.from_env({"PATH": "/bin", "DATABASE_URL": "mysql://", "XFLUXHOOK_PORT": "x"}) == Settings.from_env(
        {}
    )


@pytest.mark.parametrize("name", CONTRACT)
def test_an_empty_value_counts_as_not_set(name: str) -> None:
    assert read(**{name: ""}) == Settings.from_env({})


def test_an_unknown_name_is_refused() -> None:
    assert refusal(PUBLIC_ADDRESS="https://x.example.com") == "FLUXHOOK_PUBLIC_ADDRESS: unknown setting"


def test_an_unknown_name_with_an_empty_value_is_ignored() -> None:
    assert read(PUBLIC_ADDRESS="") == Settings.from_env({})


def test_all_errors_are_named_at_once() -> None:
    detail = refusal(PORT="http", PROVIDER="openai", PUBLIC_ADDRESS="x", PUBLIC_URL="fluxhook")

    named = [part.partition(":")[0] for part in detail.split("; ")]
    assert sorted(named) == sorted(
        ["FLUXHOOK_PROVIDER", "FLUXHOOK_PUBLIC_URL", "FLUXHOOK_PORT", "FLUXHOOK_PUBLIC_ADDRESS"]
    )


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(read(), "port", 1)  # noqa: B010 - a type checker would refuse the plain form


@pytest.mark.parametrize("port", ["-1", "65536", "http", "80.5"])
def test_an_impossible_port_is_refused(port: str) -> None:
    assert refusal(PORT=port).startswith("FLUXHOOK_PORT: ")


def test_a_list_is_separated_by_commas() -> None:
    assert read(RESULT_HOSTS=" cdn.example.com ,, *.example.org,").result_hosts == ("cdn.example.com", "*.example.org")


@pytest.mark.parametrize("host", ["https://cdn.example.com", "cdn.example.com/", "cdn.example.com:443", "*", "*x.org"])
def test_a_result_host_that_is_not_a_host_name_is_refused(host: str) -> None:
    assert refusal(RESULT_HOSTS=host).startswith("FLUXHOOK_RESULT_HOSTS: must be host names such as cdn.example.com")


def test_a_wait_of_more_than_31_days_is_refused() -> None:
    assert refusal(HOLD_SECONDS="86399999999999").startswith("FLUXHOOK_HOLD_SECONDS: ")
    assert read(HOLD_SECONDS="2678400").hold_seconds == 2_678_400


@pytest.mark.parametrize("contact", ["us (at) example.com", "b\u00fccher@example.com", "a\nb"])
def test_a_contact_that_is_no_part_of_a_header_is_refused(contact: str) -> None:
    assert refusal(CONTACT=contact).startswith("FLUXHOOK_CONTACT: must be printable ASCII without spaces or brackets")


@pytest.mark.parametrize("network", ["10.0.0.1/8", "10.0.0.0/33", "intranet"], ids=["host bits", "too long", "a name"])
def test_an_invalid_network_is_refused(network: str) -> None:
    assert "FLUXHOOK_EGRESS_ALLOW: " in refusal(EGRESS_ALLOW=network)


def test_networks_are_read_from_a_list() -> None:
    assert [str(network) for network in read(EGRESS_ALLOW="10.0.0.0/8,fd00::/8").egress_allow] == [
        "10.0.0.0/8",
        "fd00::/8",
    ]


@pytest.mark.parametrize(
    "url", ["http://proxy.example.com:3128", "https://me:p%40ss@proxy.example.com", "http://10.0.0.1:3128/"]
)
def test_a_proxy_url_is_accepted(url: str) -> None:
    proxy = read(HTTPS_PROXY=url).https_proxy

    assert proxy is not None
    assert proxy.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    [
        "proxy.example.com:3128",
        "socks5://proxy.example.com",
        "http://",
        "http://proxy.example.com/path",
        "http://proxy.example.com?a=b",
        "http://proxy.example.com:99999",
        "http://[proxy",
        "http://me:hidden#hidden@proxy.example.com",
        "http://me:hidden/hidden@proxy.example.com",
        "http://me:hidden hidden@proxy.example.com",
        "http://me:hidden\u00e9@proxy.example.com",
    ],
)
def test_an_invalid_proxy_url_is_refused_without_showing_it(url: str) -> None:
    detail = refusal(HTTPS_PROXY=url)

    assert detail.startswith("FLUXHOOK_HTTPS_PROXY: must be ")
    assert "hidden" not in detail


# The public URL


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("fluxhook.example.com", "must be an http(s) URL such as https://fluxhook.example.com"),
        ("ftp://fluxhook.example.com", "must be an http(s) URL such as https://fluxhook.example.com"),
        ("https://", "must be an http(s) URL such as https://fluxhook.example.com"),
        ("https://me:word@fluxhook.example.com", "must be an http(s) URL such as https://fluxhook.example.com"),
        ("https://fluxhook.example.com/?a=b", "must not have a query or a fragment: remove everything after the path"),
        ("https://fluxhook.example.com/?", "must not have a query or a fragment: remove everything after the path"),
        ("https://fluxhook.example.com/#top", "must not have a query or a fragment: remove everything after the path"),
        ("https://fluxhook.example.com/a b", "must not contain spaces"),
        ("https://fluxhook.example.com\n", "must not contain spaces"),
        ("https://fluxhook.example.com:99999", "port out of range"),
        ("https://[fluxhook", "invalid IPv6 URL"),
        ("http://fluxhook.example.com", "must be https, because callback URLs contain a token"),
        ("https://localhost:8080", "the provider cannot reach a private host"),
        ("https://10.1.2.3", "the provider cannot reach a private host"),
        ("https://[::1]", "the provider cannot reach a private host"),
        ("https://fluxhook.internal", "the provider cannot reach a private host"),
    ],
)
def test_an_invalid_public_url_is_refused_with_the_remedy(url: str, expected: str) -> None:
    detail = refusal(PUBLIC_URL=url)

    assert detail.lower().startswith(f"fluxhook_public_url: {expected}".lower())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://fluxhook.example.com", "https://fluxhook.example.com"),
        ("https://fluxhook.example.com/", "https://fluxhook.example.com"),
        ("https://example.com:8443/flux/hook/", "https://example.com:8443/flux/hook"),
        ("https://8.8.8.8", "https://8.8.8.8"),
    ],
    ids=["origin", "slash", "port and path", "address"],
)
def test_a_public_url_loses_its_trailing_slash(url: str, expected: str) -> None:
    assert read(PUBLIC_URL=url).public_url == expected


@pytest.mark.parametrize("url", ["http://localhost:8080", "https://10.1.2.3", "http://fluxhook.example.com"])
def test_any_public_url_is_accepted_with_a_twin(url: str) -> None:
    assert read(PUBLIC_URL=url, **TWIN).public_url == url


def test_a_twin_of_an_unused_provider_changes_nothing() -> None:
    assert "FLUXHOOK_PUBLIC_URL" in refusal(PUBLIC_URL="http://localhost:8080", PROVIDER="gptproto", **TWIN)


# Secrets


@pytest.mark.parametrize("show", [repr, str], ids=["repr", "str"])
@pytest.mark.parametrize("name", SECRETS)
def test_printed_settings_show_no_secret(name: str, show: type[str]) -> None:
    assert "hidden" not in show(read(**{"SECRET_KEYS": KEY, "DATABASE_URL": "postgresql://db", name: SECRETS[name]}))


@pytest.mark.parametrize("name", ["SECRET_KEYS", "BFL_API_KEY", "GPTPROTO_API_KEY", "ADMIN_KEY", "DATABASE_URL"])
def test_an_error_shows_no_secret(name: str) -> None:
    assert "hidden" not in refusal(**{"PORT": "x", name: "hidden \u00e9"})


@pytest.mark.parametrize("address", ["postgresql://db/fluxhook", "postgresql+asyncpg://db/fluxhook"])
def test_postgresql_requires_secret_keys(address: str) -> None:
    assert refusal(DATABASE_URL=address).startswith("FLUXHOOK_SECRET_KEYS: required on PostgreSQL")


def test_postgresql_with_keys_is_not_embedded() -> None:
    assert not read(DATABASE_URL="postgresql://db/fluxhook", SECRET_KEYS=KEY).embedded


def test_a_direct_database_url_needs_postgresql() -> None:
    direct = {"DATABASE_DIRECT_URL": "postgresql://db/fluxhook"}

    assert refusal(**direct) == "FLUXHOOK_DATABASE_DIRECT_URL: needs a PostgreSQL in FLUXHOOK_DATABASE_URL"
    assert read(DATABASE_URL="postgres://pooler/fluxhook", SECRET_KEYS=KEY, **direct).database_direct_url is not None


def test_a_direct_database_url_of_another_kind_is_refused() -> None:
    urls = {"DATABASE_URL": "postgresql://db/fluxhook", "DATABASE_DIRECT_URL": "sqlite:////data/fluxhook.db"}

    assert refusal(SECRET_KEYS=KEY, **urls) == "FLUXHOOK_DATABASE_DIRECT_URL: must begin with postgresql://"


def test_sqlite_needs_no_keys() -> None:
    assert read(DATABASE_URL="sqlite:////var/lib/fluxhook.db").embedded


def test_secret_keys_keep_their_order() -> None:
    keys = read(SECRET_KEYS=f"new{KEY}, old{KEY}").secret_keys

    assert [key.get_secret_value()[:3] for key in keys] == ["new", "old"]


@pytest.mark.parametrize("keys", ["k" * 31, f"{KEY},short"], ids=["the only one", "an older one"])
def test_a_short_secret_key_is_refused(keys: str) -> None:
    assert refusal(SECRET_KEYS=keys) == "FLUXHOOK_SECRET_KEYS: each key must have at least 32 characters"


# The provider


def test_each_provider_uses_its_own_key_and_address() -> None:
    both = {"BFL_API_KEY": "bfl-key", "GPTPROTO_API_KEY": "sk-gptproto"}

    accounts = [account for name in ("bfl", "gptproto") for account in read(PROVIDER=name, **both).accounts]
    assert [(account.kind, account.url, account.key and account.key.get_secret_value()) for account in accounts] == [
        ("bfl", "https://api.bfl.ai", "bfl-key"),
        ("gptproto", "https://gptproto.com", "sk-gptproto"),
    ]


@pytest.mark.parametrize("name", ["BFL_API_KEY", "GPTPROTO_API_KEY"])
@pytest.mark.parametrize("key", ["key\n", "a key", "cl\u00e9", "key\0"], ids=["line end", "space", "not ascii", "nul"])
def test_a_provider_key_that_does_not_fit_in_a_header_is_refused(name: str, key: str) -> None:
    assert refusal(**{name: key}).startswith(f"FLUXHOOK_{name}: must be printable ASCII without spaces")


@pytest.mark.parametrize("name", ["BFL_API_KEY", "GPTPROTO_API_KEY"])
def test_a_provider_key_of_dots_is_refused_as_a_placeholder(name: str) -> None:
    assert refusal(**{name: "..."}).startswith(f"FLUXHOOK_{name}: is the placeholder of the instructions")


@pytest.mark.parametrize("key", ["key\n", " a-key", "cl\u00e9", "key\0"], ids=["line end", "space", "not ascii", "nul"])
def test_an_admin_key_that_does_not_fit_in_a_header_is_refused(key: str) -> None:
    assert refusal(ADMIN_KEY=key).startswith("FLUXHOOK_ADMIN_KEY: must be printable ASCII without spaces around it")


@pytest.mark.parametrize(("length", "is_taken"), [(23, False), (24, True)])
def test_an_admin_key_has_at_least_24_characters(length: int, is_taken: bool) -> None:
    if is_taken:
        assert read(ADMIN_KEY="k" * length).admin_key is not None
    else:
        assert refusal(ADMIN_KEY="k" * length).startswith("FLUXHOOK_ADMIN_KEY: must have at least 24 characters")


@pytest.mark.parametrize("provider", ["bfl", "gptproto"])
def test_a_public_provider_must_use_https(provider: str) -> None:
    name = f"{provider.upper()}_BASE_URL"

    assert refusal(PROVIDER=provider, **{name: "http://api.example.com"}).startswith(f"FLUXHOOK_{name}: must be https")


@pytest.mark.parametrize("url", ["http://localhost:9000", "http://twin:9000", "http://127.0.0.1", "http://[::1]:9000"])
def test_a_provider_on_a_private_host_is_a_twin(url: str) -> None:
    assert read(BFL_BASE_URL=url).twin


def test_a_provider_on_a_public_host_is_not_a_twin() -> None:
    assert not read(BFL_BASE_URL="https://api.eu.bfl.ai").twin


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST.", "twin", "a.localhost", "printer.local", "db.internal", "nas.lan", "x.home.arpa"),
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "::1", "fd00::1", "fe80::1", ""),
    ],
)
def test_a_host_in_a_private_network_is_recognised(host: str) -> None:
    assert names_private_host(host)


@pytest.mark.parametrize("host", ["api.bfl.ai", "example.com.", "8.8.8.8", "2606:4700::1111", "local.example.com"])
def test_a_public_host_is_recognised(host: str) -> None:
    assert not names_private_host(host)


@given(st.dictionaries(st.sampled_from(sorted(Settings.model_fields)), st.text(max_size=30)))
def test_any_environment_is_accepted_or_refused_with_one_error(env: dict[str, Any]) -> None:
    try:
        assert isinstance(read(**{name.upper(): value for name, value in env.items()}).data_dir, Path)
    except ConfigurationError as refused:
        assert "FLUXHOOK_" in refused.detail  # noqa: PT017 - both outcomes are valid


@pytest.mark.parametrize(
    "address", ["mysql://db/fluxhook", "fluxhook.db", "postgresq://db/fluxhook", "sqlite+aiosqlite:///x.db"]
)
def test_an_unsupported_database_is_refused_by_its_setting(address: str) -> None:
    detail = refusal(DATABASE_URL=address)

    assert detail.startswith("FLUXHOOK_DATABASE_URL: must begin with sqlite:/// or postgresql://")
    assert address not in detail


def test_postgresql_urls_have_two_schemes() -> None:
    assert not read(DATABASE_URL="postgres://db/fluxhook", SECRET_KEYS=KEY).embedded


SECRET = "k" * 40


@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=repr)
def test_a_secret_may_be_in_a_file_without_the_line_end(tmp_path: Path, end: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(f"{SECRET}{end}".encode())
    settings = Settings.from_env({"FLUXHOOK_BFL_API_KEY_FILE": str(file), "FLUXHOOK_SECRET_KEYS_FILE": str(file)})

    assert [account.key and account.key.get_secret_value() for account in settings.accounts] == [SECRET]
    assert [key.get_secret_value() for key in settings.secret_keys] == [SECRET]


def test_every_setting_with_a_secret_may_be_in_a_file() -> None:
    hidden = {name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)}

    assert hidden <= set(settings_module.SECRETS)
    assert set(settings_module.SECRETS) <= Settings.model_fields.keys()


def test_a_secret_that_is_set_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    with pytest.raises(ConfigurationError, match=r"^FLUXHOOK_ADMIN_KEY: set it or FLUXHOOK_ADMIN_KEY_FILE, not both$"):
        Settings.from_env({"FLUXHOOK_ADMIN_KEY": SECRET, "FLUXHOOK_ADMIN_KEY_FILE": str(file)})


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read: No such file"), (b"\xff", "it is not text"), (b"\n", "is empty")]
)
def test_a_file_of_a_secret_that_cannot_be_used_is_named_with_its_setting(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_env({"FLUXHOOK_ADMIN_KEY_FILE": str(file)})

    assert refused.value.detail.startswith(f"FLUXHOOK_ADMIN_KEY_FILE: {file} ")
    assert reason in refused.value.detail


def test_doctor_shows_values_as_the_variables_hold_them() -> None:
    env = {"FLUXHOOK_EGRESS_ALLOW": "10.0.0.0/8, 192.168.1.0/24", "FLUXHOOK_SEND_WEBHOOK_SECRET": "false"}
    shown = describe(Settings.from_env(env))

    assert shown["EGRESS_ALLOW"] == "10.0.0.0/8,192.168.1.0/24"
    assert shown["TRUSTED_PROXIES"] == "127.0.0.1/32,::1/128"
    assert shown["SEND_WEBHOOK_SECRET"] == "false"
    assert shown["RESULT_HOSTS"] is None
