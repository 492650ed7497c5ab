"""`.ci/security-rules` finds unsafe code, and `.ci/secret-scan` finds keys in files."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CI = Path(__file__).parent.parent / ".ci"
check = runpy.run_path(str(CI / "security-rules"))["check"]


def rules(text: str, name: str = "app/a.py") -> list[str]:
    """The broken rules, without the place and the line."""
    return [problem.split(": ")[1] for problem in check(name, text)]


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("compare", "found = header == proof.secret"),
        ("compare", "found = signature != expected"),
        ("compare", "found = tokens[0] == given"),
        ("compare", "found = a == self._admin_key"),
        ("sql", 'connection.execute(f"SELECT {name}")'),
        ("sql", 'connection.execute(text("SELECT %s" % name))'),
        ("sql", 'connection.scalar(text("SELECT " + name))'),
        ("sql", 'connection.exec_driver_sql("SELECT {}".format(name))'),
        ("log", 'log.info("posted", prompt=prompt)'),
        ("log", 'log.info("posted", detail=task.prompt)'),
        ("log", 'log.info(f"posted {webhook_url}")'),
        ("log", "logs.note(secret=x)"),
        ("log", "metrics.posted.labels(user).inc()"),
        ("log", 'log.bind(a=1).warning("posted", cause=answer.body)'),
        ("client", "client = httpx.AsyncClient()"),
        ("client", "answer = httpx.get(url)"),
        ("client", "answer = urllib.request.urlopen(url)"),
    ],
)
def test_an_unsafe_line_is_found(rule: str, line: str) -> None:
    assert rules(f"{line}\n") == [rule]


@pytest.mark.parametrize(
    "line",
    [
        "found = hmac.compare_digest(header, proof.secret)",
        'found = setting.shared_secret == "accept"',
        "found = len(secrets) == 1",
        'connection.execute(text("SELECT :name"), {"name": name})',
        'log.info("posted", task_id=task.id, kind=f"{step}")',
        "client.get(url)",
        "found = a == secret  # security: both are public here\n",
    ],
)
def test_a_safe_line_and_one_with_a_reason_pass(line: str) -> None:
    assert rules(f"{line}\n") == []


def test_an_exception_without_a_reason_is_none() -> None:
    assert rules("found = a == secret  # security:\n") == ["compare"]


@pytest.mark.parametrize("name", ["app/security/http_clients.py", "app/cli/api.py", "app/twin/server.py"])
def test_few_files_may_make_http_clients(name: str) -> None:
    assert rules("client = httpx.AsyncClient()\n", name) == []


def test_a_breach_names_file_line_rule_and_text() -> None:
    assert check("app/a.py", "x = 1\nfound = a == secret\n") == ["app/a.py:2: compare: found = a == secret"]


def test_a_key_in_a_tracked_file_is_found_and_not_printed(tmp_path: Path) -> None:
    pytest.importorskip("detect_secrets")
    (tmp_path / ".ci").mkdir()
    script = Path(shutil.copy(CI / "secret-scan", tmp_path / ".ci"))
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)  # noqa: S607 - git of the path
    key = "AKIA" + "Z3MGVIPQ4TNEXWQ7"
    (tmp_path / "notes.md").write_text(f"the id of a task is task_0p3l4l8bu00216njrqqhmdcd07bqglti298ti\nkey: {key}\n")
    before = scan(script)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)  # noqa: S607 - git of the path
    after = scan(script)

    assert before == (0, "")
    assert after == (1, "notes.md:2: AWS Access Key\n")


def scan(script: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True)  # noqa: S603 - our code
    assert done.stderr == ""
    return done.returncode, done.stdout
