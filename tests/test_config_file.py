"""The file that FLUXHOOK_CONFIG names: what it may say, and what is refused by name."""

from pathlib import Path

import pytest

from app.catalog import Catalog, shipped_catalog
from app.config_file import AccountSettings
from app.errors import ConfigurationError
from app.settings import Settings
from app.wiring import openai_policy, require_models

KEYS = {"EU_KEY": "key-of-eu", "US_KEY": "key-of-us"}
EU = '[[accounts]]\nname = "eu"\nregion = "eu"\nkey_env = "EU_KEY"\n'


def read(folder: Path, text: str, **values: str) -> Settings:
    file = folder / "fluxhook.toml"
    file.write_text(text)
    return Settings.from_env({**KEYS, "FLUXHOOK_CONFIG": str(file), **values})


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        read(folder, text)
    return refused.value.detail


def test_accounts_are_read_in_order_with_their_keys(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key-of-file\n")
    text = f"""
        [[accounts]]
        name = "own"
        key_env = "FLUXHOOK_OWN_KEY"
        base_url = "https://api.us1.bfl.ai/"
        slots = 96
        models = ["flux-2-pro", "flux-kontext-max"]
        [accounts.slots_by_model]
        flux-kontext-max = 12

        [[accounts]]
        name = "reseller-1"
        kind = "flux-path"
        base_url = "https://api.302.ai"
        key_file = "{tmp_path / "key"}"
        """
    first, second = read(tmp_path, text, FLUXHOOK_OWN_KEY="key-of-own").accounts

    assert first == AccountSettings(
        id="acct:own",
        name="own",
        kind="bfl",
        url="https://api.us1.bfl.ai",
        region="us",
        key=first.key,
        slots=96,
        slots_by_model={"flux-kontext-max": 12},
        models=frozenset({"flux-2-pro", "flux-kontext-max"}),
        former_id=first.former_id,
    )
    assert (second.kind, second.url, second.region, second.models) == ("gptproto", "https://api.302.ai", "global", None)
    assert [account.key and account.key.get_secret_value() for account in (first, second)] == [
        "key-of-own",
        "key-of-file",
    ]


def test_an_account_knows_the_id_that_its_key_had_in_the_environment_alone(tmp_path: Path) -> None:
    (alone,) = Settings.from_env({"FLUXHOOK_BFL_API_KEY": KEYS["EU_KEY"]}).accounts
    (named,) = read(tmp_path, EU).accounts

    assert (named.id, named.former_id) == ("acct:eu", alone.id)


def test_a_file_without_accounts_leaves_the_account_of_the_environment(tmp_path: Path) -> None:
    (account,) = read(tmp_path, "", FLUXHOOK_BFL_API_KEY="a-key").accounts

    assert (account.id, account.former_id) == ("bfl:2a8a1240f506", None)


def test_no_key_is_shown(tmp_path: Path) -> None:
    settings = read(tmp_path, EU)

    assert "key-of-eu" not in f"{settings!r} {settings.accounts!r} {settings.file!r}"


def test_the_public_url_may_be_private_if_every_account_is_on_a_twin(tmp_path: Path) -> None:
    twin = '[[accounts]]\nname = "twin"\nbase_url = "http://127.0.0.1:9000"\nkey_env = "US_KEY"\n'

    assert read(tmp_path, twin, FLUXHOOK_PUBLIC_URL="http://127.0.0.1:8080").twin
    with pytest.raises(ConfigurationError, match=r"^FLUXHOOK_PUBLIC_URL: must be https"):
        read(tmp_path, twin + EU, FLUXHOOK_PUBLIC_URL="http://127.0.0.1:8080")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[accounts]\n", "is not valid TOML"),
        ('[accounts]\nname = "eu"\n', "accounts: must be a list of tables: begin each account with [[accounts]]"),
        ("[acounts]\n", "fluxhook.toml: acounts: unknown member"),
        (EU + "slot = 3\n", "fluxhook.toml: accounts[0] (eu): slot: unknown member"),
        (EU + "slots = 0\n", "fluxhook.toml: accounts[0] (eu): slots: input should be greater than or equal to 1"),
        (EU + 'key = "sk-1"\n', "accounts[0] (eu): key: the file must not hold the API key"),
        (EU + 'key_file = "/run/key"\n', "accounts[0] (eu): give either key_env or key_file"),
        (EU + EU, "accounts: two accounts have the name eu"),
        (EU.replace('"eu"', '"EU 1"'), "accounts[0] (EU 1): name: string should match pattern"),
        (EU + 'base_url = "https://api.us.bfl.ai"\n', "region: is eu, but base_url is the host of the region us"),
        (EU + 'base_url = "http://api.example.com"\n', "base_url: must be https, because the API key is sent to it"),
        (EU + 'kind = "flux-path"\n', "accounts[0] (eu): base_url: required for this kind"),
        (EU + "models = []\n", "accounts[0] (eu): models: must name at least one model"),
        (EU.replace("EU_KEY", "NO_KEY"), "accounts (eu): key_env: the variable NO_KEY is not set"),
    ],
)
def test_a_wrong_file_is_refused_and_the_error_names_table_and_member(tmp_path: Path, text: str, reason: str) -> None:
    detail = refusal(tmp_path, text)

    assert detail.startswith("FLUXHOOK_CONFIG: ")
    assert reason in detail
    assert "sk-1" not in detail


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^FLUXHOOK_CONFIG: /.* cannot be read: No such file"):
        Settings.from_env({"FLUXHOOK_CONFIG": str(tmp_path / "none.toml")})


def test_an_alias_names_a_model_of_the_catalog(tmp_path: Path) -> None:
    catalog = shipped_catalog()
    settings = read(tmp_path, '[openai.aliases]\n"gpt-image-1.5" = "flux-2-pro"\n')
    require_models(settings, catalog)
    assert openai_policy(settings).aliases == {"gpt-image-1.5": "flux-2-pro"}

    settings = read(tmp_path, '[openai.aliases]\ngpt-image-1 = "flux-3-video"\n')
    with pytest.raises(ConfigurationError, match=r"openai: aliases: gpt-image-1: flux-3-video makes videos"):
        require_models(settings, catalog)


def test_an_account_names_models_of_the_catalog_unless_others_are_passed_on(tmp_path: Path) -> None:
    settings = read(tmp_path, EU + 'models = ["flux-kontext-pro", "flux-x"]\n')

    require_models(settings, Catalog(shipped_catalog(), pass_unknown=True))
    with pytest.raises(ConfigurationError, match=r"accounts \(eu\): models: flux-x is not in the catalog; served are"):
        require_models(settings, shipped_catalog())
