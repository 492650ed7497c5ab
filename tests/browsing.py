"""The pages as a browser sees them: a session, and the token of its forms."""

import re
from dataclasses import dataclass
from html.parser import HTMLParser

from tests.world import ADMIN_KEY, World

HTML = """<script>alert(1)</script><img src=x onerror=alert(2)>"' {{ 7*7 }}"""  # a prompt
_ONCE = re.compile(r'name="once" value="([^"]+)"')
_TOKEN = re.compile(r'name="token" value="([^"]+)"')


@dataclass(frozen=True)
class Page:
    text: str

    @property
    def token(self) -> str:
        found = _TOKEN.search(self.text)
        assert found is not None, self.text
        return found[1]

    @property
    def once(self) -> str:
        """The field that makes a form count once."""
        found = _ONCE.search(self.text)
        assert found is not None, self.text
        return found[1]

    @property
    def values(self) -> dict[str, str]:
        """What the page's largest form would send, without its token."""
        reader = _Fields()
        reader.feed(self.text)
        return {name: value for name, value in reader.found.items() if name != "token"}


class _Fields(HTMLParser):
    """Collects the values of the form with the class `new`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._is_inside = False
        self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        members = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._is_inside = "new" in members.get("class", "").split()
        if not self._is_inside:
            return
        if tag == "input" and (members.get("type") != "checkbox" or "checked" in members):
            self.found[members["name"]] = members.get("value", "on")
        elif tag == "select":
            self._select = members["name"]
        elif tag == "option" and ("selected" in members or self._select not in self.found):
            self.found[self._select] = ""

    def handle_data(self, data: str) -> None:
        if self._is_inside and self._select and self.found.get(self._select) == "":
            self.found[self._select] = data.strip()

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        if tag == "form":
            self._is_inside = False


async def signed_in(world: World, path: str = "/tasks", key: str = ADMIN_KEY) -> Page:
    """Sign in with a key, and return a page that the session sees."""
    world.outsider.cookies.clear()
    await world.outsider.post("/session", data={"key": key})
    return await look(world, path)


async def look(world: World, path: str) -> Page:
    """Return a page that the session sees."""
    answer = await world.outsider.get(path)
    assert answer.status_code == 200, answer.text
    return Page(answer.text)
