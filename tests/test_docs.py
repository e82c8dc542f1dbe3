"""What the documentation promises, the code has."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from appliance import cli
from appliance.settings import ELSEWHERE, table


def _help(*arguments: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--help"])
    assert end.value.code == 0
    return out.getvalue()


def test_generated_documents_are_as_the_code_has_them(root: Path) -> None:
    pages = runpy.run_path(str(root / "docs" / "generate.py"))["pages"]()
    stale = [path.name for path, text in pages.items() if not path.exists() or path.read_text() != text]
    assert not stale, "run make docs"
    assert {path.name for path in pages} == {"ledger.md", "flaws.md", "README.md"}


def test_readme_has_every_setting_and_no_other(root: Path) -> None:
    readme = (root / "README.md").read_text()
    documented = re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", readme, re.MULTILINE)
    assert documented == [row.name for row in table()]
    mentioned = set(re.findall(r"\b(?:SNIFFER|USAGE)_[A-Z_]*[A-Z]", readme))
    assert mentioned <= {*documented, *ELSEWHERE}
    without_effect = re.search(r"^Accepted, no effect on `replay`: (.+)\.$", readme, re.MULTILINE)
    assert without_effect is not None
    assert without_effect[1].replace("`", "").split(", ") == list(ELSEWHERE)


def test_every_setting_says_what_it_means_and_gives_an_example() -> None:
    for row in table():
        assert all(row), row


def test_make_targets_of_the_documents_exist_and_are_in_make_help(root: Path) -> None:
    makefile = (root / "Makefile").read_text()
    listed = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    for path in (root / "README.md", *(root / "docs").glob("*.md"), root / ".ci" / "run"):
        named = re.findall(r"(?:`|^ {4}|\bstep '[^']*' )make ([a-z]+)", path.read_text(), re.MULTILINE)
        assert set(named) <= listed, path.name
    assert {"help", "demo", "test", "check", "fix", "bench"} <= listed


def test_readme_has_every_option_format_and_exit_code_of_replay_and_no_other(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # no line is broken inside a list
    readme = (root / "README.md").read_text()
    text = _help("replay")
    options = set(re.findall(r"--[a-z][a-z-]+", text)) - {"--help"}
    assert set(re.findall(r"^\| `(--[a-z][a-z-]+)", readme, re.MULTILINE)) == options
    formats = re.search(r"--format \{([a-z,]+)\}", text)
    assert formats is not None
    assert set(re.findall(r"`--format ([a-z]+)`", readme)) == set(formats[1].split(","))
    codes = set(re.findall(r"^\| (\d+) \|", readme, re.MULTILINE))
    assert codes == set(re.findall(r"\b(\d+)\s[a-z]", text.partition("Exit codes:")[2]))


def test_commands_of_the_readme_parse(root: Path) -> None:
    pages = "".join((root / page).read_text() for page in ("README.md", "docs/rules.md"))
    commands = re.findall(r"^ {4}(?:.*[|'] )?appliance (.+)$", pages, re.MULTILINE)
    assert len(commands) >= 10
    for command in commands:
        arguments = cli._parser().parse_args(shlex.split(command, comments=True))
        assert arguments.run


def test_every_dependency_has_its_reason(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = [re.split(r"[<>=!~;\[ ]", one, maxsplit=1)[0] for one in wanted]
    page = (root / "docs" / "dependencies.md").read_text()
    reasons = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", page, re.MULTILINE))
    assert sorted(reasons) == sorted(names)
    assert all(">=" in one for one in wanted)


def test_every_ignored_lint_rule_has_its_reason(root: Path) -> None:
    rules = re.findall(r'^    "[A-Z]+[0-9]*", *(.*)$', (root / "pyproject.toml").read_text(), re.MULTILINE)
    assert rules
    assert all(reason.startswith("# ") for reason in rules)


def test_links_and_paths_of_the_documents_exist(root: Path) -> None:
    for path in (root / "README.md", *(root / "docs").glob("*.md")):
        text = path.read_text()
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
        for target in re.findall(r"`((?:appliance|tests|docs|examples)/[\w/.]*)`", text):
            assert (root / target).exists(), f"{path.name}: {target}"


def test_what_the_appliance_is_said_to_say_it_says(root: Path) -> None:
    """docs/mirror.md is read at 3 a.m., beside the log."""
    code = "".join(path.read_text() for path in (root / "appliance").rglob("*.py"))
    page = (root / "docs" / "mirror.md").read_text().partition("## Signals")[0]
    lines = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert len(lines) >= 6
    for line in lines:
        for text in re.split(r"N|\d+|\w*VNI\w*|frame_\w+|gap_\w+|frames|bytes", line):
            assert text.strip(" ():") in code, (line, text)
