# SPDX-License-Identifier: GPL-3.0-or-later
"""promises.rst, rules.rst and posix.rst list the tests that carry `@pytest.mark.promise`, and every claim has one."""

from pathlib import Path

import pytest

from docs import promises

REGENERATE = "run `python docs/promises.py` and commit what it writes"


def all_keys() -> list[str]:
    return [key for page in promises.PAGES for key in promises.keys_of(page.read_text())]


def test_a_key_stands_for_one_claim() -> None:
    assert len(all_keys()) > 100
    assert len(all_keys()) == len(set(all_keys()))


def test_every_claim_has_a_test() -> None:
    assert set(all_keys()) - {shown.key for shown in promises.marked_tests()} == set(), "no test carries these keys"


def test_a_test_carries_only_keys_that_stand_on_a_page() -> None:
    assert [shown for shown in promises.marked_tests() if shown.key not in all_keys()] == []


@pytest.mark.parametrize("page", promises.PAGES, ids=lambda path: path.name)
def test_the_lists_of_tests_are_up_to_date(page: Path) -> None:
    assert page.read_text() == promises.with_tests(page.read_text(), promises.marked_tests()), REGENERATE


PAGE = (
    "Title\n=====\n\n``a-key``\n    Words.\n\n``other-key``\n    More.\n\n    * ``old.py::test_gone``\n\n\nEnd\n---\n"
)
TEST = "import pytest\n\n\nclass TestThat:\n    @pytest.mark.promise('a-key')\n    def test_it(self): ...\n"


def test_a_list_names_file_class_and_test_and_replaces_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "test_b.py").write_text(TEST)
    page = promises.with_tests(PAGE, promises.marked_tests(tmp_path))
    assert "    Words.\n\n    * ``test_b.py::TestThat::test_it``\n\n``other-key``" in page
    assert "test_gone" not in page
    assert page.endswith("    More.\n\n\nEnd\n---\n")
    assert promises.with_tests(page, promises.marked_tests(tmp_path)) == page


@pytest.mark.parametrize("test", [TEST.replace("test_it", "helper"), TEST.replace("'a-key'", "KEY")])
def test_a_marker_that_cannot_be_read_is_an_error(tmp_path: Path, test: str) -> None:
    (tmp_path / "test_b.py").write_text(test)
    with pytest.raises(ValueError, match="promise"):
        promises.marked_tests(tmp_path)
