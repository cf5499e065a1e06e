"""The site holds together, seen without building it: navigation, API reference, links, notebooks."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

import vfunc

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(
    not (ROOT / "mkdocs.yml").is_file(), reason="there is no site beside the tests"
)

LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.M | re.S)
REFERENCE = re.compile(r"\]\[(?P<name>vfunc[\w.]*)\]")


@pytest.fixture(scope="module")
def repository_pages():
    """The module that says which files outside docs/ are pages."""
    path = DOCS / "site" / "repository_pages.py"
    spec = importlib.util.spec_from_file_location("repository_pages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def configuration():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def nav_pages(nav):
    """Pages of a navigation, depth first."""
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(value, list):
                yield from nav_pages(value)
            else:
                yield value


def texts():
    """Files in Markdown whose links a reader may follow: those of the site, and the README."""
    found = [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "experiments" / "LOG.md"]
    return [*found, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "theory" / "README.md"]


def anchors(text):
    """The ids that headings get."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub(lambda m: m[0].strip("`"), text), re.M)
    words = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in words}


def test_every_page_of_the_navigation_exists_and_every_page_is_in_it(repository_pages):
    listed = list(nav_pages(configuration()["nav"]))
    assert len(listed) == len(set(listed))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert set(listed) == there | set(repository_pages.SOURCE)
    for source in repository_pages.SOURCE.values():
        assert (ROOT / source).is_file(), source


def test_the_reference_has_every_public_name_once():
    text = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    # a function that is called like its module is shown by its full path
    shown = re.findall(r"^::: vfunc\.(?:\w+\.)*(\w+)$", text, re.M)
    public = {name for name in vfunc.__all__ if not name.startswith("__")}
    assert sorted(shown) == sorted(public)


def test_references_to_names_lead_somewhere():
    text = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    shown = re.findall(r"^::: (vfunc[\w.]*)$", text, re.M)
    for path in DOCS.rglob("*.md"):
        for reference in REFERENCE.finditer(path.read_text(encoding="utf-8")):
            assert reference["name"] in shown, f"{path}: {reference['name']}"


@pytest.mark.parametrize("path", texts(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_files_and_headings(path):
    text = path.read_text(encoding="utf-8")
    for link in LINK.finditer(CODE.sub("", text)):
        target, _, anchor = link["target"].partition("#")
        if ":" in target:
            continue
        file = (path.parent / target) if target else path
        assert file.is_file(), f"{path.name}: {link[0]}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{path.name}: {link[0]}"


def test_parts_of_the_readme_that_pages_take_in_are_marked(repository_pages):
    wanted = {
        name
        for path in DOCS.rglob("*.md")
        for name in re.findall(r"^<!-- README: ([\w-]+) -->$", path.read_text(), re.M)
    }
    assert wanted
    for name in wanted:
        assert repository_pages.readme_part(name).strip()


def test_links_between_files_become_links_between_pages(repository_pages):
    text = "[a](../docs/design.md#x) [b](../vfunc/trees.py) [c](04_implicit.ipynb) `[d](e.md)` "
    text += "![f](../docs/g.png)\n```\n[h](i.md)\n```\n[arXiv](https://arxiv.org)"
    assert repository_pages.page_markdown(text, "theory/index.md") == (
        "[a](../design.md#x) `vfunc/trees.py` [c](04_implicit.md) `[d](e.md)` "
        "![f](../g.png)\n```\n[h](i.md)\n```\n[arXiv](https://arxiv.org)"
    )


def test_a_list_gets_the_blank_line_that_mkdocs_asks_for(repository_pages):
    text = "three:\n- a\n  b\n- c\n\n```\nx\n- y\n```\n"
    expected = text.replace("three:\n", "three:\n\n")
    assert repository_pages.page_markdown(text, "design.md") == expected


@pytest.mark.parametrize("path", sorted((ROOT / "theory").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_are_committed_as_executed(path, repository_pages):
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "not executed from top to bottom"
    page, pictures = repository_pages.notebook_page(path)
    assert page.startswith("# ") and pictures


def test_what_is_shown_comes_from_the_site_itself():
    theme = configuration()["theme"]
    assert theme["font"] is False
    for path in [ROOT / "mkdocs.yml", *(DOCS / "site").glob("*.css")]:
        assert "url(http" not in path.read_text() and "https://" not in path.read_text(), path


def test_files_that_the_texts_name_exist():
    named = re.compile(r"`((?:vfunc|tests|docs|theory|experiments)/[\w./]*|\.ci/run)`")
    for path in [ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]:
        for name in named.findall(path.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_pre_commit_runs_the_linters_of_ci():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    hooks = [hook for repo in yaml.safe_load(text)["repos"] for hook in repo["hooks"]]
    assert all(hook["language"] == "system" for hook in hooks)  # nothing is fetched
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    linters = {line for line in lines if line.startswith(("ruff ", "pyright", "basedpyright"))}
    assert {hook["entry"] for hook in hooks} == linters


def test_the_readmes_tree_has_every_part_of_the_package():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^  (?:  )?([\w/]+(?:\.py)?)  +\S", text.split("\nvfunc/\n")[1], re.M)
    listed = {name.rstrip("/") for name in listed}
    package = ROOT / "vfunc"
    folders = [*package.iterdir(), *package.glob("vision/*"), *package.glob("language/*")]
    rooms = [path for path in folders if any(path.glob("*.py"))] + list(package.glob("*.py"))
    missing = {p.name for p in rooms if not p.name.startswith("__")} - listed
    assert not missing
