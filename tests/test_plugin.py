"""A part is a module in its package, found by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance import plugin


def test_our_formats_are_found_through_the_same_door() -> None:
    assert plugin.names("appliance.formats") == ["exchanges", "har", "messages", "table"]
    for name in plugin.names("appliance.formats"):
        assert callable(plugin.find("appliance.formats", name).build)


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(LookupError, match=r"'xml' is not one of exchanges, har, messages, table"):
        plugin.find("appliance.formats", "xml")


@pytest.mark.parametrize("name", ["", "har.py", "..model", "__init__", "os"])
def test_only_a_module_of_the_package_is_a_name(name: str) -> None:
    with pytest.raises(LookupError):
        plugin.find("appliance.formats", name)


def test_a_part_that_cannot_be_imported_is_not_taken_for_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "parts_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "broken.py").write_text("import no_such_module_anywhere\n")
    (package / "_private.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert plugin.names("parts_of_a_test") == ["broken"]
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        plugin.find("parts_of_a_test", "broken")
