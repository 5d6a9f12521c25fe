"""bench/mutations.py: its list is of the code as it is; the campaign itself takes minutes."""

from pathlib import Path

import pytest

from mutations_list import MUTATIONS

PACKAGE = Path(__file__).parent.parent / "pvq_ref"


@pytest.mark.parametrize("one", MUTATIONS, ids=lambda one: f"{one.file}: {one.what}")
def test_each_defect_fits_once_and_changes_something(one):
    assert (PACKAGE / one.file).read_text("utf-8").count(one.old) == 1
    assert one.new != one.old
