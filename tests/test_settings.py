from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ConfigurationError
from app.settings import Settings, names_private_host

KEY = "k" * 32
TWIN = {"BFL_BASE_URL": "http://twin:9000"}
# Section 9 of the design: what the README, the container and people's scripts use.
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
    "HOST",
    "PORT",
]
SECRETS = {
    "BFL_API_KEY": "bfl-key-hidden",
    "GPTPROTO_API_KEY": "gptproto-key-hidden",
    "SECRET_KEYS": "ring-key-hidden-" + KEY,
    "ADMIN_KEY": "admin-key-hidden",
    "DATABASE_URL": "postgresql://fluxhook:password-hidden@db/fluxhook",
}


def read(**given: str) -> Settings:
    return Settings.from_env({f"FLUXHOOK_{name}": value for name, value in given.items()})


def complaint(**given: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        read(**given)
    return refused.value.detail


# Reading


def test_nothing_has_to_be_set() -> None:
    settings = Settings.from_env({})

    assert (settings.provider, settings.embedded, settings.public_url, settings.provider_key) == (
        "bfl",
        True,
        None,
        None,
    )


@pytest.mark.parametrize("name", CONTRACT)
def test_every_name_of_the_contract_is_a_setting(name: str) -> None:
    assert name.lower() in Settings.model_fields


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_explained_in_a_sentence(name: str) -> None:
    assert (Settings.model_fields[name].description or "").endswith(".")


def test_other_programs_variables_are_not_ours() -> None:
    assert Settings.from_env({"PATH": "/bin", "DATABASE_URL": "mysql://", "XFLUXHOOK_PORT": "x"}) == Settings.from_env(
        {}
    )


@pytest.mark.parametrize("name", CONTRACT)
def test_an_empty_value_counts_as_not_set(name: str) -> None:
    assert read(**{name: ""}) == Settings.from_env({})


def test_an_unknown_name_is_refused() -> None:
    assert complaint(PUBLIC_ADDRESS="https://x.example.com") == "FLUXHOOK_PUBLIC_ADDRESS: there is no such setting"


def test_an_unknown_name_that_is_empty_is_let_be() -> None:
    assert read(PUBLIC_ADDRESS="") == Settings.from_env({})


def test_several_mistakes_are_named_at_once() -> None:
    detail = complaint(PORT="http", PROVIDER="openai", PUBLIC_ADDRESS="x", PUBLIC_URL="fluxhook")

    named = [part.partition(":")[0] for part in detail.split("; ")]
    assert sorted(named) == sorted(
        ["FLUXHOOK_PROVIDER", "FLUXHOOK_PUBLIC_URL", "FLUXHOOK_PORT", "FLUXHOOK_PUBLIC_ADDRESS"]
    )


def test_a_setting_cannot_be_changed_later() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(read(), "port", 1)  # noqa: B010 - a type checker would refuse the plain form


@pytest.mark.parametrize("port", ["-1", "65536", "http", "80.5"])
def test_an_impossible_port_is_refused(port: str) -> None:
    assert complaint(PORT=port).startswith("FLUXHOOK_PORT: ")


def test_a_list_is_separated_by_commas() -> None:
    assert read(RESULT_HOSTS=" cdn.example.com ,, *.example.org,").result_hosts == ("cdn.example.com", "*.example.org")


@pytest.mark.parametrize("host", ["https://cdn.example.com", "cdn.example.com/", "cdn.example.com:443", "*", "*x.org"])
def test_a_host_that_no_result_could_come_from_is_refused(host: str) -> None:
    assert complaint(RESULT_HOSTS=host).startswith("FLUXHOOK_RESULT_HOSTS: must be names such as cdn.example.com")


def test_a_hold_that_would_end_behind_the_calendar_is_refused() -> None:
    assert complaint(HOLD_SECONDS="86399999999999").startswith("FLUXHOOK_HOLD_SECONDS: ")
    assert read(HOLD_SECONDS="2678400").hold_seconds == 2_678_400


@pytest.mark.parametrize("network", ["10.0.0.1/8", "10.0.0.0/33", "intranet"], ids=["host bits", "too long", "a name"])
def test_a_network_that_is_none_is_refused(network: str) -> None:
    assert "FLUXHOOK_EGRESS_ALLOW: " in complaint(EGRESS_ALLOW=network)


def test_networks_are_read_as_networks() -> None:
    assert [str(network) for network in read(EGRESS_ALLOW="10.0.0.0/8,fd00::/8").egress_allow] == [
        "10.0.0.0/8",
        "fd00::/8",
    ]


# Where callbacks come to


@pytest.mark.parametrize(
    ("url", "mend"),
    [
        ("fluxhook.example.com", "must be an http(s) address such as https://fluxhook.example.com"),
        ("ftp://fluxhook.example.com", "must be an http(s) address such as https://fluxhook.example.com"),
        ("https://", "must be an http(s) address such as https://fluxhook.example.com"),
        ("https://me:word@fluxhook.example.com", "must be an http(s) address such as https://fluxhook.example.com"),
        ("https://fluxhook.example.com/?a=b", "must not have a query or a fragment: remove what follows the path"),
        ("https://fluxhook.example.com/?", "must not have a query or a fragment: remove what follows the path"),
        ("https://fluxhook.example.com/#top", "must not have a query or a fragment: remove what follows the path"),
        ("https://fluxhook.example.com/a b", "must not hold spaces"),
        ("https://fluxhook.example.com\n", "must not hold spaces"),
        ("https://fluxhook.example.com:99999", "port out of range"),
        ("https://[fluxhook", "invalid IPv6 URL"),
        ("http://fluxhook.example.com", "must be https, because it carries the callback's token"),
        ("https://localhost:8080", "the provider cannot reach a private host"),
        ("https://10.1.2.3", "the provider cannot reach a private host"),
        ("https://[::1]", "the provider cannot reach a private host"),
        ("https://fluxhook.internal", "the provider cannot reach a private host"),
    ],
)
def test_a_public_url_that_cannot_work_is_refused_with_its_mend(url: str, mend: str) -> None:
    detail = complaint(PUBLIC_URL=url)

    assert detail.lower().startswith(f"fluxhook_public_url: {mend}".lower())


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://fluxhook.example.com", "https://fluxhook.example.com"),
        ("https://fluxhook.example.com/", "https://fluxhook.example.com"),
        ("https://example.com:8443/flux/hook/", "https://example.com:8443/flux/hook"),
        ("https://8.8.8.8", "https://8.8.8.8"),
    ],
    ids=["origin", "slash", "port and path", "address"],
)
def test_a_public_url_is_kept_without_its_last_slash(url: str, kept: str) -> None:
    assert read(PUBLIC_URL=url).public_url == kept


@pytest.mark.parametrize("url", ["http://localhost:8080", "https://10.1.2.3", "http://fluxhook.example.com"])
def test_the_twin_may_call_any_public_url(url: str) -> None:
    assert read(PUBLIC_URL=url, **TWIN).public_url == url


def test_a_twin_for_the_provider_that_is_not_used_allows_nothing() -> None:
    assert "FLUXHOOK_PUBLIC_URL" in complaint(PUBLIC_URL="http://localhost:8080", PROVIDER="gptproto", **TWIN)


# Secrets


@pytest.mark.parametrize("show", [repr, str], ids=["repr", "str"])
@pytest.mark.parametrize("name", SECRETS)
def test_printed_settings_show_no_secret(name: str, show: type[str]) -> None:
    assert "hidden" not in show(read(**{"SECRET_KEYS": KEY, name: SECRETS[name]}))


@pytest.mark.parametrize("name", ["SECRET_KEYS", "BFL_API_KEY", "GPTPROTO_API_KEY", "ADMIN_KEY", "DATABASE_URL"])
def test_a_complaint_shows_no_secret(name: str) -> None:
    assert "hidden" not in complaint(**{"PORT": "x", name: "hidden \u00e9"})


@pytest.mark.parametrize("address", ["postgresql://db/fluxhook", "postgresql+asyncpg://db/fluxhook"])
def test_postgresql_needs_keys_that_every_replica_knows(address: str) -> None:
    assert complaint(DATABASE_URL=address).startswith("FLUXHOOK_SECRET_KEYS: needed on PostgreSQL")


def test_postgresql_with_keys_is_not_embedded() -> None:
    assert not read(DATABASE_URL="postgresql://db/fluxhook", SECRET_KEYS=KEY).embedded


def test_sqlite_needs_no_keys() -> None:
    assert read(DATABASE_URL="sqlite:////var/lib/fluxhook.db").embedded


def test_secret_keys_keep_their_order() -> None:
    keys = read(SECRET_KEYS=f"new{KEY}, old{KEY}").secret_keys

    assert [key.get_secret_value()[:3] for key in keys] == ["new", "old"]


@pytest.mark.parametrize("keys", ["k" * 31, f"{KEY},short"], ids=["the only one", "an older one"])
def test_a_short_secret_key_is_refused(keys: str) -> None:
    assert complaint(SECRET_KEYS=keys) == "FLUXHOOK_SECRET_KEYS: each key needs at least 32 characters"


# The provider


def test_each_provider_uses_its_own_key_and_address() -> None:
    given = {"BFL_API_KEY": "bfl-key", "GPTPROTO_API_KEY": "sk-gptproto"}

    keys = {name: read(PROVIDER=name, **given).provider_key for name in ("bfl", "gptproto")}
    hosts = {name: read(PROVIDER=name).provider_url.hostname for name in ("bfl", "gptproto")}
    assert keys == {"bfl": "bfl-key", "gptproto": "sk-gptproto"}
    assert hosts == {"bfl": "api.bfl.ai", "gptproto": "gptproto.com"}


@pytest.mark.parametrize("name", ["BFL_API_KEY", "GPTPROTO_API_KEY"])
@pytest.mark.parametrize("key", ["key\n", "a key", "cl\u00e9", "key\0"], ids=["line end", "space", "not ascii", "nul"])
def test_a_provider_key_that_no_header_can_carry_is_refused(name: str, key: str) -> None:
    assert complaint(**{name: key}).startswith(f"FLUXHOOK_{name}: must be printable ASCII without spaces")


@pytest.mark.parametrize("key", ["key\n", " a-key", "cl\u00e9", "key\0"], ids=["line end", "space", "not ascii", "nul"])
def test_an_admin_key_that_nobody_can_present_is_refused(key: str) -> None:
    assert complaint(ADMIN_KEY=key).startswith("FLUXHOOK_ADMIN_KEY: must be printable ASCII without spaces around it")


@pytest.mark.parametrize("key", ["a", "three short words"])
def test_an_admin_key_that_works_is_taken_however_weak_it_is(key: str) -> None:
    assert read(ADMIN_KEY=key).admin_key is not None


@pytest.mark.parametrize("provider", ["bfl", "gptproto"])
def test_a_key_is_not_sent_in_the_clear_to_a_public_host(provider: str) -> None:
    name = f"{provider.upper()}_BASE_URL"

    assert complaint(PROVIDER=provider, **{name: "http://api.example.com"}).startswith(
        f"FLUXHOOK_{name}: must be https"
    )


@pytest.mark.parametrize("url", ["http://localhost:9000", "http://twin:9000", "http://127.0.0.1", "http://[::1]:9000"])
def test_a_provider_on_a_private_host_is_a_twin(url: str) -> None:
    assert read(BFL_BASE_URL=url).twin


def test_a_provider_on_a_public_host_is_no_twin() -> None:
    assert not read(BFL_BASE_URL="https://api.eu.bfl.ai").twin


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST.", "twin", "a.localhost", "printer.local", "db.internal", "nas.lan", "x.home.arpa"),
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "::1", "fd00::1", "fe80::1", ""),
    ],
)
def test_a_name_that_only_a_private_network_knows(host: str) -> None:
    assert names_private_host(host)


@pytest.mark.parametrize("host", ["api.bfl.ai", "example.com.", "8.8.8.8", "2606:4700::1111", "local.example.com"])
def test_a_name_that_everybody_can_look_up(host: str) -> None:
    assert not names_private_host(host)


@given(st.dictionaries(st.sampled_from(sorted(Settings.model_fields)), st.text(max_size=30)))
def test_any_environment_is_taken_or_refused_with_one_error(given: dict[str, Any]) -> None:
    try:
        assert isinstance(read(**{name.upper(): value for name, value in given.items()}).data_dir, Path)
    except ConfigurationError as refused:
        assert "FLUXHOOK_" in refused.detail  # noqa: PT017 - both ends are right


@pytest.mark.parametrize(
    "address", ["mysql://db/fluxhook", "fluxhook.db", "postgresq://db/fluxhook", "sqlite+aiosqlite:///x.db"]
)
def test_a_database_that_is_neither_of_the_two_is_refused_by_its_setting(address: str) -> None:
    told = complaint(DATABASE_URL=address)

    assert told.startswith("FLUXHOOK_DATABASE_URL: must begin with sqlite:/// or postgresql://")
    assert address not in told


def test_postgresql_has_two_names() -> None:
    assert not read(DATABASE_URL="postgres://db/fluxhook", SECRET_KEYS=KEY).embedded
