# SPDX-License-Identifier: GPL-3.0-or-later
"""How results are saved, compared and reported."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.goal_comparison import count_missed, lines_behind_peer, rows
from benchmarks.report.page import BEGIN, END, as_rst, write
from benchmarks.report.plots import by_files, by_latency
from benchmarks.report.terminal import tables
from benchmarks.results import Bound, Results


@pytest.fixture
def results() -> Results:
    found = Results(settings={"repeat": 3, "scale": 1.0})
    for subject, figures in {"cas3fs-dir": [10, 31, 900], "nullfs": [50, 50, 1], "s3ql-dir": [40]}.items():
        for figure in figures:
            found.add("small.create", subject, figure)
    for figure in (100, 250):
        found.add("memory", "cas3fs-dir", figure)
    found.bounds.append(Bound("scale", "10,000 files: stat", "us/file", 40.0, at_most=50.0))
    found.failures.append("tree in s3fs-s3: no links")
    return found


def test_medians_are_compared(results: Results) -> None:
    of_peer, of_null, memory = rows(results)
    assert (of_peer.figure, of_peer.spread, str(of_peer.goal), of_peer.met) == (31, (10, 900), "6 x S3QL", False)
    assert of_null.evaluation is not None
    assert (of_null.evaluation.ratio, of_null.met) == (0.62, True)
    assert (memory.figure, memory.met) == (250, False), "the maximum of a peak counts"


def test_missed_goals_are_counted_and_lines_behind_listed(results: Results) -> None:
    assert count_missed(results) == 2
    assert lines_behind_peer(results) == ["small.create (dir): 0.78"]


def test_results_are_read_from_json_and_combined(results: Results, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(results.as_json())
    assert Results.read([tmp_path / "one.json"]) == results
    both = Results.read([tmp_path / "one.json"] * 2)
    assert both.figures["small.create", "s3ql-dir"] == [40, 40]


def part(path: Path, time: str, failures: list[str], *measured: tuple[str, str]) -> Path:
    """A file of results."""
    results = Results(time=time, failures=failures)
    for line, subject in measured:
        results.add(line, subject, 1.0)
    path.write_text(results.as_json())
    return path


def test_a_newer_run_replaces_an_older_failure(tmp_path: Path) -> None:
    stays = ["tree in s3ql-dir: old", "tree in s3fs-s3: old", "small in nullfs: old"]
    old = part(tmp_path / "old", "2026-11-22T08:00:00Z", ["tree in nullfs: old", "empty in nullfs: old", *stays])
    new = part(tmp_path / "new", "2026-11-23T08:00:00Z", ["empty in nullfs: new"], ("tree.copy", "nullfs"))
    for paths in ([old, new], [new, old]):
        read = Results.read(paths)
        assert read.failures == [*stays, "empty in nullfs: new"], "independent of the order of the files"
        assert read.time == "2026-11-23T08:00:00Z"


def test_a_failure_with_figures_of_the_same_file_is_kept(tmp_path: Path) -> None:
    path = part(tmp_path / "one", "2026-11-22T08:00:00Z", ["tree in nullfs: late"], ("tree.copy", "nullfs"))
    assert Results.read([path]).failures == ["tree in nullfs: late"]


def test_terminal_tables_show_figures_ratios_and_goals(results: Results) -> None:
    console = Console(width=200, file=io.StringIO())
    for table in tables(results):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    shown = " ".join(console.file.getvalue().split())
    assert "create and close files of 4 KiB dir 31 files/s 50 40 0.78 6 x S3QL missed" in shown
    assert "scale 10,000 files: stat 40 us/file <= 50 met" in shown


def test_a_page_is_only_changed_between_its_marks(results: Results, tmp_path: Path) -> None:
    page = tmp_path / "page.rst"
    page.write_text(f"Before\n\n{BEGIN}\n\nold\n\n{END}\n\nAfter\n")
    write(page, results)
    text = page.read_text()
    assert text.startswith("Before\n")
    assert text.endswith("After\n")
    assert "old" not in text
    assert as_rst(results) in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the lines"):
        write(page, results)


def test_a_page_names_the_machine_misses_and_failures(results: Results) -> None:
    page = as_rst(results)
    assert f"Linux {results.machine['kernel']}" in page
    assert "S3QL is ahead in: small.create (dir): 0.78." in page
    assert "Failed: tree in s3fs-s3: no links." in page


def test_a_page_of_bounds_does_not_mention_the_peer(results: Results) -> None:
    results.figures.clear()
    page = as_rst(results)
    assert "10,000 files: stat" in page
    assert "ahead" not in page


def test_plots_have_a_point_for_each_size_and_place() -> None:
    found = Results()
    for size, us in ((10_000, 100.0), (100_000, 110.0)):
        found.bounds.append(Bound("scale", f"{size:,} files: create", "us/file", us))
        found.bounds.append(Bound("scale", f"{size:,} files: memory of the mount", "MiB", us))
    found.add("small.stored", "cas3fs-dir", 4000)
    found.add("small.stored", "cas3fs-far", 2000)
    times, memory = by_files(found.bounds)
    assert times == {"create": [(10_000, 100.0), (100_000, 110.0)]}
    assert list(memory) == ["memory of the mount"]
    assert by_latency(found) == {"small.stored": [(0, 1.0), (31, 0.5)]}
