"""The guide for learners: its examples run, and its figures are those that its script draws."""

import doctest
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

import pvq_ref

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guide.md"
REPAIR = "python bench/guide_figures.py"


@pytest.fixture(scope="module")
def drawn():
    return runpy.run_path(str(ROOT / "bench" / "guide_figures.py"))["figures"]()


def test_examples():
    result = doctest.testfile(str(GUIDE), module_relative=False, encoding="utf-8")
    assert result.attempted > 80
    assert result.failed == 0


def test_figures_are_up_to_date(drawn):
    folder = ROOT / "docs" / "figures"
    for name, text in drawn.items():
        ElementTree.fromstring(text)  # well-formed
        assert (folder / name).read_text("utf-8") == text, f"{name} is old: {REPAIR}"
    assert {path.name for path in folder.iterdir()} >= drawn.keys()


def test_figures_are_shown(drawn):
    text = GUIDE.read_text("utf-8")
    assert set(re.findall(r"\(figures/([\w.]+)\)", text)) == drawn.keys()


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", GUIDE.read_text("utf-8")):
        assert (GUIDE.parent / link).exists(), link


def test_names_in_the_reading_order_exist():
    """Each row has files in its first column, and names from these files in its second."""
    rows = re.findall(r"^\| (`\w+\.py`.*?) \| (.*) \|$", GUIDE.read_text("utf-8"), re.MULTILINE)
    assert len(rows) > 15
    for files, remarks in rows:
        paths = [ROOT / "pvq_ref" / name for name in re.findall(r"`(\w+\.py)`", files)]
        words = set(re.findall(r"\w+", "\n".join(path.read_text("utf-8") for path in paths)))
        for name in re.findall(r"`([\w.]+)`", remarks):
            assert set(name.split(".")) <= words | set(pvq_ref.__all__), f"{name} in {files}"
