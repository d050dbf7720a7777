# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run consists of; all workloads run, at a tiny size."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.__main__ import main
from benchmarks.lines import line_of
from benchmarks.results import Results
from benchmarks.runs import WorkloadRun, plan_runs
from benchmarks.sizes import WorkloadSizes
from benchmarks.sources import Sources, log_text
from benchmarks.subjects import PlainDirectory, S3fs, S3ql, Subject, installed, subjects
from benchmarks.workloads import WORKLOADS, Figures, Work, Workload

TINY = WorkloadSizes(
    files=100, stream_mib=2, shifted_mib=4, tree_files=60, empty_files=1000, random_operations=100, random_s=0.5
)


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for other writes of this machine."""
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    sources = Sources(tmp_path)
    yield Work(TINY, sources)
    sources.close()


def run(system: str, run: Callable[[Subject, Work], Figures]) -> WorkloadRun:
    def make(folder: Path, options: Sequence[str]) -> Subject:
        return PlainDirectory(folder)

    return WorkloadRun(system, make, Workload("some", "some", run))


def failing(subject: Subject, work: Work) -> Figures:
    """Yield one figure and fail."""
    yield "small.create", 1.0
    raise RuntimeError("no more")


def test_compared_subjects_are_measured_together() -> None:
    titles = [run.title for run in plan_runs(subjects([S3ql, S3fs]), WORKLOADS)]
    assert titles[:3] == ["small in plain", "small in nullfs", "small in cas3fs-dir"]
    of_small = [title for title in titles if title.startswith("small ")]
    assert titles[: len(of_small)] == of_small
    assert "small in s3ql-far" in of_small
    assert "tree in s3fs-s3" not in titles, "s3fs does not support hard links"


def test_a_failed_peer_is_recorded_with_its_figures(work: Work, tmp_path: Path) -> None:
    results = Results()
    run("s3ql-dir", failing).run(tmp_path / "subject", (), work, results)
    assert results.failures == ["some in s3ql-dir: no more"]
    assert results.figures == {("small.create", "s3ql-dir"): [1.0]}
    assert not (tmp_path / "subject").exists()


def test_a_failure_of_cas3fs_ends_the_run(work: Work, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no more"):
        run("cas3fs-dir", failing).run(tmp_path / "subject", (), work, Results())
    assert not (tmp_path / "subject").exists()


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_workload_yields_known_lines(workload: Workload, work: Work, tmp_path: Path) -> None:
    if "plain" not in workload.beside:
        assert workload.name in {"shifted", "tree-far"}
        return
    results = Results()
    made = subjects([])["plain"]
    WorkloadRun("plain", made, workload).run(tmp_path / "subject", (), work, results)
    assert results.failures == []
    found = {name for name, _ in results.figures}
    assert found
    for name in found - {f"{workload.name}.fsync", f"{workload.name}.read"}:
        assert line_of(name).workload == workload.name


def test_a_peer_is_found_by_its_command(tmp_path: Path) -> None:
    assert installed(str(tmp_path)) == []
    command = tmp_path / "mount.s3ql"
    command.touch(0o755)
    assert installed(str(tmp_path)) == [S3ql]


def test_log_text_has_the_requested_length_and_unique_lines() -> None:
    text = b"".join(log_text(1_000_001))
    assert len(text) == 1_000_001
    lines = text.splitlines()
    assert len(set(lines)) == len(lines)


def test_an_unknown_workload_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["no-such"])
    assert caught.value.code == 2
    assert "unknown workload: no-such" in capsys.readouterr().err


def test_saved_results_are_reported_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results()
    results.add("shifted.added", "cas3fs-dir", 0.2)
    (tmp_path / "results.json").write_text(results.as_json())
    assert main(["--from", str(tmp_path / "results.json")]) == 0
    assert "<= 2" in capsys.readouterr().out


@pytest.mark.usefixtures("need_fuse")
def test_a_run_of_cas3fs_and_others_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--subjects", "nullfs", "cas3fs-dir", "--repeat", "1", "--scale", "0.005"]
    main(["small", "empty", *chosen, "--json", str(tmp_path / "results.json")])
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["failures"] == []
    measured = {(one["line"], one["subject"]) for one in saved["figures"]}
    wanted = {"small.create", "small.read-cold", "empty.fsck", "empty.mount", "memory"}
    assert {(line, "cas3fs-dir") for line in wanted} <= measured
    assert "create and close files of 4 KiB" in capsys.readouterr().out


@pytest.mark.usefixtures("need_fuse")
def test_large_volumes_are_compared_with_small_ones() -> None:
    found = {bound.what: bound for bound in scale.run(0.1, sizes=[10_000])}
    assert "create: most files relative to fewest" in found
    assert all(bound.figure > 0 for bound in found.values())
