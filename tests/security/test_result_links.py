"""The hosts that a result may be fetched from."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.security.result_links import is_on

HOSTS = ("bfl.ai", "*.bfl.ai", "cdn.example.com")


def allowed(url: str, origin: str = "https://api.bfl.ai") -> bool:
    return is_on(url, hosts=HOSTS, origin=origin)


@pytest.mark.parametrize(
    "url",
    [
        "https://bfl.ai/a.png",
        "https://delivery-eu1.bfl.ai/results/a.png?se=2026-01-02T12%3A10%3A00Z&sig=x",
        "https://delivery.us2.bfl.ai/a.png",
        "https://DELIVERY.EU1.BFL.AI/a.png",
        "https://delivery.eu1.bfl.ai:443/a.png",
        "https://delivery.eu1.bfl.ai./a.png",
        "https://cdn.example.com/a.png",
    ],
)
def test_a_result_may_come_from_a_host_of_the_provider(url: str) -> None:
    assert allowed(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.png",
        "//delivery.eu1.bfl.ai/a.png",
        "http://delivery.eu1.bfl.ai/a.png",
        "ftp://delivery.eu1.bfl.ai/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "https:///a.png",
        "https://evilbfl.ai/a.png",
        "https://bfl.ai.evil.com/a.png",
        "https://evil.com/bfl.ai/a.png",
        "https://evil.com?bfl.ai",
        "https://evil.com#.bfl.ai",
        "https://evil.com\\.bfl.ai@evil.com/",
        "https://delivery.eu1.bfl.ai@evil.com/a.png",
        "https://delivery.eu1.bfl.ai:443@evil.com/a.png",
        "https://user@delivery.eu1.bfl.ai/a.png",
        "https://user:word@delivery.eu1.bfl.ai/a.png",
        "https://delivery.eu1.bfl.ai:8443/a.png",
        "https://delivery.eu1.bfl.ai:99999/a.png",
        "https://delivery.eu1.bfl.ai:x/a.png",
        "https://other.cdn.example.com/a.png",
        "https://169.254.169.254/a.png",
        "https://[::1]/a.png",
        "https://[delivery.bfl.ai/a.png",
        "https://.bfl.ai/a.png",
        "https://a..bfl.ai/a.png",
        f"https://{'a' * 64}.bfl.ai/a.png",
        " https://delivery.eu1.bfl.ai/a.png",
        "https://delivery.eu1.bfl.ai/a.png\n",
        "https://delivery.eu1.bfl.ai/\0",
        "https://evil.com\t.bfl.ai/a.png",
        "https://xn--.bfl.ai/a.png",
        "https://\ud800.bfl.ai/a.png",
        "https://delivery.eu1.bfl.ai/" + "a" * 5000,
    ],
)
def test_a_result_may_not_come_from_any_other_url(url: str) -> None:
    assert not allowed(url)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("api.eu1.bfl.ai", True),
        ("API.us.BFL.ai", True),
        ("api.bfl.ai", False),
        ("api.eu1.delivery.bfl.ai", False),
        ("delivery.eu1.bfl.ai", False),
        ("evil.api.eu1.bfl.ai", False),
    ],
)
def test_an_asterisk_inside_a_name_stands_for_one_label(host: str, *, expected: bool) -> None:
    assert is_on(f"https://{host}/", hosts=["api.*.bfl.ai"], origin="") == expected


@pytest.mark.parametrize("origin", ["http://twin:9000", "http://twin:9000/flux"], ids=["origin", "with a path"])
def test_plain_http_is_allowed_on_the_configured_origin(origin: str) -> None:
    assert allowed("http://twin:9000/delivery/a.png", origin)


@pytest.mark.parametrize(
    "url",
    ["http://twin/a.png", "http://twin:9001/a.png", "https://twin:9000/a.png", "http://me@twin:9000/a.png"],
    ids=["no port", "other port", "other scheme", "userinfo"],
)
def test_the_whole_origin_must_match(url: str) -> None:
    assert not allowed(url, "http://twin:9000")


@given(st.text())
def test_any_text_is_checked_without_an_error(text: str) -> None:
    assert not allowed(f"https://{text}.evil.com/")
    allowed(text)  # the text may name a host of the provider, because Hypothesis searches for one


@given(st.text(alphabet="abflxn-.:@/\\?#[]%\t 0127\u3002\uff0f\ud800", max_size=40))
def test_the_client_sees_the_same_host_as_the_check(middle: str) -> None:
    url = f"https://{middle}.bfl.ai/"
    if allowed(url):
        assert httpx.Request("GET", url).url.raw_host.removesuffix(b".").endswith(b".bfl.ai")
