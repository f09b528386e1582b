"""The documentation fits the code: the picture is current, links lead somewhere, what is listed is there."""

import importlib.util
import re
from pathlib import Path

import pytest

from edgecomp import discover
from edgecomp.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "targets").rglob("*.md"))]


def read(page):
    return page.read_text(encoding="utf-8")


def test_picture_of_the_architecture_is_current():
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    architecture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(architecture)
    assert read(architecture.PICTURE) == architecture.current(), "run: python docs/architecture.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", read(page))
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing, f"{page.name} links to {missing}"


def test_index_has_every_page():
    index = read(ROOT / "docs" / "README.md")
    assert not [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name not in index and page.name != "README.md"
    ]


def test_cited_sections_exist():
    """Code cites `docs/methods.md §1`."""
    sections = {int(number) for number in re.findall(r"^## (\d+)\.", read(ROOT / "docs" / "methods.md"), re.MULTILINE)}
    cited = set()
    for path in (ROOT / "edgecomp").rglob("*.py"):
        assert not re.search(r"(?<!docs/)\b(METHODS|DESIGN|HOUSE_MOVES)\.md", read(path)), path
        cited |= {int(number) for number in re.findall(r"docs/methods\.md\s+§(\d+)", read(path))}
        for page in re.findall(r"\bdocs/[\w-]+\.md", read(path)):
            assert (ROOT / page).exists(), f"{path} cites {page}"
    assert cited and cited <= sections


@pytest.mark.parametrize("page", ["README.md", "docs/methods.md"])
def test_every_method_is_described(page):
    assert not [name for name in discover.method_names() if f"`{name}`" not in read(ROOT / page)]


def test_readme_has_every_command_and_environment_variable():
    readme = read(ROOT / "README.md")
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert not [name for name in commands if f"edgecomp {name}" not in readme]
    code = "".join(read(path) for path in (ROOT / "edgecomp").rglob("*.py"))
    variables = set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", code))
    assert variables and not [name for name in variables if f"`{name}`" not in readme]
