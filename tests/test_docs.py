"""The documentation agrees with the tree: links, paths, the drawn folders, and the files shown byte by byte."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import ckptsurgeon

PACKAGE = ROOT / "ckptsurgeon"
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])
_LINK = re.compile(r"(?<!`)\[[^\]]+\]\(([^)\s]+)\)")
_CODE_PATH = re.compile(r"`((?:ckptsurgeon|formats|ring|tests|scripts|docs)/[\w./-]*)`")
_HEX_BLOCK = re.compile(r"^```hex (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEX_LINE = re.compile(r""" *(\d+)  (?:((?:[0-9a-f]{2} )*[0-9a-f]{2}(?: × \d+)?)|(['"])(.*)\3)(?:  .*)?""")


def _name(path: Path) -> str:
    return os.path.relpath(path, ROOT)


def _links(page: Path) -> list[tuple[Path, str]]:
    """The files and headings that a page links to, but for other sites."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = []
    for target in _LINK.findall(text):
        if "://" not in target:
            file, _, heading = target.partition("#")
            found.append((Path(os.path.normpath(page.parent / file)) if file else page, heading))
    return found


def _headings(page: Path) -> set[str]:
    """The headings of a page as links spell them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that exists, and a heading that it has."""
    for target, heading in _links(page):
        assert target.exists(), f"{_name(page)} links to {_name(target)}"
        assert not heading or heading in _headings(target), f"{_name(page)} links to #{heading} of {_name(target)}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_paths_in_the_docs_exist(page: Path) -> None:
    """Every path of the project that stands in backticks is there, from the root or from the package."""
    for path in _CODE_PATH.findall(page.read_text()):
        places = [ROOT / path, PACKAGE / path]
        known = any(place.exists() for place in places)
        assert known, f"{_name(page)} names {path}"


def test_every_page_is_reachable() -> None:
    """From docs/README.md links lead to every page of docs/."""
    seen, waiting = {DOCS / "README.md"}, [DOCS / "README.md"]
    while waiting:
        fresh = {target for target, _ in _links(waiting.pop()) if target.suffix == ".md" and target.exists()} - seen
        seen |= fresh
        waiting += fresh
    assert {_name(page) for page in DOCS.rglob("*.md")} <= {_name(page) for page in seen}


def test_the_tree_is_drawn_as_it_stands() -> None:
    """The tree in docs/architecture.md has every folder of the package, and nothing that is not there."""
    block = re.search(r"```\nckptsurgeon/\n(.*?)```", (DOCS / "architecture.md").read_text(), re.DOTALL)
    assert block
    drawn: set[str] = set()
    parents: list[str] = []
    for line in block[1].splitlines():
        match = re.match(r"((?:  )+)(\w+)(/|\.py)(?: |$)", line)
        assert match, line
        parents[len(match[1]) // 2 - 1 :] = [match[2] + match[3].rstrip("/")]
        drawn.add("/".join(parents))
    there = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")} - {"."}
    there |= {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    assert there - drawn == set()
    assert {each for each in drawn if not (PACKAGE / each).exists()} == set()


def test_parts_import_only_what_is_drawn_above_them() -> None:
    """The arrows in the README's picture all lead up in the tree of docs/architecture.md."""
    tree = re.search(r"```\nckptsurgeon/\n(.*?)```", (DOCS / "architecture.md").read_text(), re.DOTALL)
    picture = re.search(r"## The house.*?```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree
    assert picture
    order = re.findall(r"^  (\w+)", tree[1], re.MULTILINE)
    for line in picture[1].splitlines():
        part, _, others = line.partition("->")
        for other in filter(None, others.replace(" ", "").split(",")):
            assert order.index(other) < order.index(part.strip()), f"{part.strip()} is drawn above {other}"


def _shown(block: str) -> bytes:
    """The bytes of a file that is shown."""
    data = b""
    for line in block.splitlines():
        match = _HEX_LINE.fullmatch(line)
        assert match, line
        assert int(match[1]) == len(data), line
        if match[2]:
            digits, _, count = match[2].partition(" × ")
            data += bytes.fromhex(digits) * int(count or 1)
        else:
            data += match[4].encode()
    return data


def test_files_are_shown_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program writes, byte for byte, the files that the formats' pages show."""
    monkeypatch.chdir(tmp_path)
    matrix = np.array([[1, 2], [3, 4]], np.float32)
    np.savez("both.npz", w=matrix, step=np.array(7))
    np.savez("one.npz", w=matrix)
    for name in ("bundle", "v1", "safetensors", "npy"):
        ckptsurgeon.convert("one.npz" if name == "npy" else "both.npz", name, to=name)
    shown = {name: _shown(block) for page in PAGES for name, block in _HEX_BLOCK.findall(page.read_text())}
    assert set(shown) == {"bundle.index", "bundle.data-00000-of-00001", "v1", "safetensors", "npy"}
    for name, data in shown.items():
        assert data == (tmp_path / name).read_bytes(), name
