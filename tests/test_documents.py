"""What the documents say is what the code does: generated parts are current, names in them exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli import commands
from app.db.migrations.all_tables import metadata
from app.errors import FluxhookError
from app.rules.task import MOVES, Failure, Status
from app.setting_types import as_text
from app.settings import (
    CALLBACK_SECRET,
    CLIENT_KEY,
    CLIENT_KEY_FILE,
    CLIENT_URL,
    FILE_SUFFIX,
    PREFIX,
    SECRETS,
    Settings,
)

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SECURITY = ROOT / "SECURITY.md"
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
OPERATING = ROOT / "docs" / "operating.md"
ERRORS = ROOT / "docs" / "errors.md"


def settings_table() -> str:
    rows = ["| name | what it decides | default |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        value = as_text(field.default)
        default = "" if value is None else f"`{value}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {field.description} | {default} |")
    return "\n".join(rows)


def states_diagram() -> str:
    width = max(map(len, Status))
    rows = [f"{status:{width}}  ->  {', '.join(_targets(status)) or '(final)'}" for status in Status]
    return "\n".join(["```", *rows, "```"])


def _targets(status: Status) -> list[str]:
    return [target for target in Status if target in MOVES[status]]


# Errors that no answer contains: of the command line, of a client that has gone, and of a download.
NOT_ANSWERED = {"configuration", "client_gone", "result_refused"}


def errors_table() -> str:
    rows = ["| `code` | status | meaning | the same request again |", "| --- | --- | --- | --- |"]
    named = (error for error in _errors(FluxhookError) if "code" in vars(error) and error.code not in NOT_ANSWERED)
    found = {(error.status, error.code): error for error in named}
    for (status, code), error in sorted(found.items()):
        again = "may succeed" if error.retryable else "fails again"
        rows.append(f"| `{code}` | {status} | {error.title} | {again} |")
    return "\n".join(rows)


def _errors(base: type[FluxhookError]) -> Iterator[type[FluxhookError]]:
    yield base
    for error in base.__subclasses__():
        yield from _errors(error)


@pytest.mark.parametrize(
    ("path", "name", "text"),
    [
        (OPERATING, "settings", settings_table()),
        (ARCHITECTURE, "states", states_diagram()),
        (ERRORS, "errors", errors_table()),
    ],
    ids=["settings", "states", "errors"],
)
def test_a_generated_part_of_a_document_is_current(
    path: Path, name: str, text: str, request: pytest.FixtureRequest
) -> None:
    found = re.search(rf"(<!-- {name}: generated.*? -->\n)(.*?)(<!-- {name}: end -->)", path.read_text(), re.DOTALL)
    assert found is not None
    if request.config.getoption("--regenerate"):
        path.write_text(path.read_text().replace(found[0], f"{found[1]}{text}\n{found[3]}"))
    else:
        assert found[2] == f"{text}\n"


def test_every_failure_code_is_explained() -> None:
    described = (ROOT / "docs" / "api.md").read_text()
    unexplained = [code for code in Failure if f"`{code}`" not in described]
    assert unexplained == []


SECRET_FILES = {f"{PREFIX}{name.upper()}{FILE_SUFFIX}" for name in SECRETS}


def test_every_command_is_documented() -> None:
    described = (ROOT / "docs" / "command-line.md").read_text()
    names = [
        command.name or command.callback.__name__ for command in commands().registered_commands if command.callback
    ]
    assert [name for name in names if not re.search(rf"`{name}[` ]", described)] == []


@pytest.mark.parametrize("path", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name)
def test_a_document_names_only_settings_that_exist(path: Path) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | SECRET_FILES
    known |= {CLIENT_URL, CLIENT_KEY, CLIENT_KEY_FILE, CALLBACK_SECRET}
    assert set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", path.read_text())) <= known


def log_events() -> set[str]:
    """The first argument of every call that writes a log line: the event's name between its quotes."""
    sources = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py") if path.name != "logs.py")
    calls = r"\b(?:log\.(?:debug|info|warning|error|exception|critical)|logs\.emit)\(\s*([^,)]+)"
    return set(re.findall(calls, sources))


def test_every_log_event_has_a_snake_case_name_and_is_documented() -> None:
    events = log_events()
    described = (ROOT / "docs" / "observing.md").read_text()

    assert {'"job"', '"pruned"', '"request"'} <= events
    assert [event for event in sorted(events) if not re.fullmatch(r'"[a-z]+(_[a-z]+)*"', event)] == []
    names = [event.strip('"') for event in sorted(events)]
    assert [name for name in names if f"`{name}`" not in described and f'"{name}"' not in described] == []


def test_the_operating_guide_explains_every_alert() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "docs" / "alerts.yml").read_text())
    assert [alert for alert in alerts if f"`{alert}`" not in OPERATING.read_text()] == []


def test_links_between_documents_have_targets() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert [
        (page.name, target)
        for page in pages
        for target in re.findall(r"\]\(((?!http)[^)]+)\)", page.read_text())
        if not leads(page, target)
    ] == []


def leads(page: Path, target: str) -> bool:
    """Whether there is such a file, with such a heading where one is named."""
    path, _, anchor = target.partition("#")
    linked = (page.parent / path).resolve() if path else page
    if not linked.exists() or not anchor:
        return linked.exists()
    headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_architecture_names_every_package_and_module_at_the_top() -> None:
    text = ARCHITECTURE.read_text()
    there = {path.stem for path in (ROOT / "app").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {name for name in there if not re.search(rf"\b{name}\b", text)} <= {"__init__"}


def test_the_architecture_lists_the_layers_of_the_import_contract() -> None:
    checked = re.search(r"layers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert checked is not None
    layers = [sorted(layer.split(" | ")) for layer in re.findall(r'"(.*?)"', checked[1])]
    section = ARCHITECTURE.read_text().partition("## The direction of imports")[2].partition("\n## ")[0]
    shown = [re.sub(r"\(.*\)", "", line) for line in re.findall(r"^\d+\. (.*)$", section, re.MULTILINE)]

    assert [sorted(re.findall(r"`(\w+)`", line)) for line in shown] == layers


def test_compose_passes_on_every_setting_that_the_image_does_not_set() -> None:
    fixed = {"HOST", "PORT", "DATA_DIR"}
    wanted = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields if name.upper() not in fixed}
    handed_on = set(re.findall(rf"^ +({PREFIX}\w+):", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE))
    assert handed_on == wanted | SECRET_FILES


def test_compose_passes_on_every_documented_variable_of_tracing() -> None:
    named = set(re.findall(r"`(OTEL_\w+)`", (ROOT / "docs" / "observing.md").read_text()))
    handed_on = set(re.findall(r"^ +(OTEL_\w+):", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE))
    assert named
    assert named <= handed_on


def test_the_threat_model_says_of_each_table_what_its_reader_learns() -> None:
    listed = SECURITY.read_text().partition("| a reader learns |")[2].partition("\n\n")[0]
    named = [name for row in listed.split("\n") for name in re.findall(r"`([a-z_]+)`", row.partition(" | ")[0])]

    assert set(named) == set(metadata.tables)
