"""How values are shown as text for people."""

import pytest

from app.web.pages.words import marked


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("needs the scope `admin`", "needs the scope <code>admin</code>"),
        ("`<b>` and <b>", "<code>&lt;b&gt;</code> and &lt;b&gt;"),
        ("one ` alone", "one ` alone"),
        ("", ""),
    ],
)
def test_what_is_between_backticks_is_shown_as_code(text: str, html: str) -> None:
    assert str(marked(text)) == html
