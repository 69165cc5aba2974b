"""From table and images to a cohort folder: what is dropped, what is counted, what is refused."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from raw_data import jpeg

from slimp.data.cohort import Cohort, CohortInfo
from slimp.data.in_order import THREADS
from slimp.data.schema import Schema
from slimp.errors import CohortError, TableError, UserError
from slimp.sources.config import ImportOptions
from slimp.sources.importer import GROUP, RawTable, import_cohort

SCHEMA = Schema.from_dict(
    {
        "image": "img",
        "lesion": "lesion",
        "patient": "patient",
        "label": "dx",
        "patient_metadata": {"age": {"kind": "continuous"}},
    }
)
INFO = CohortInfo(name="ours", source="test", licence="CC0-1.0")


def raw_table(
    n: int = 12, files: dict[str, bytes] | Callable[[str], bytes | None] | None = None
) -> RawTable:
    """A table of n images, n / 2 lesions and n / 4 patients; file `i3.jpg` holds `jpeg(3)`."""
    table = pd.DataFrame(
        {
            "img": [f"i{k}.png" for k in range(n)],
            "lesion": [str(k // 2) for k in range(n)],
            "patient": [f"p{k // 4}" for k in range(n)],
            "dx": ["MEL" if k % 3 else "NEV" for k in range(n)],
            "age": [str(40 + k) for k in range(n)],
        },
        dtype="str",
    )
    files = {f"i{k}.png": jpeg(k) for k in range(n)} if files is None else files
    opener = files.get if isinstance(files, dict) else files
    return RawTable(table=table, open_image=opener, looked_in="the drawer")


def run(raw: RawTable, target: Path, **more: object) -> Cohort:
    return import_cohort(raw, SCHEMA, target, info=INFO, **more)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_cohort(tmp_path):
    seen = []
    cohort = run(raw_table(), tmp_path / "c", progress=lambda done, n: seen.append((done, n)))
    assert seen == [(k, 12) for k in range(1, 13)]
    assert repr(cohort) == "Cohort('ours': 3 patients, 6 lesions, 12 images)"
    assert [cohort.read_image(i) for i in range(12)] == [jpeg(i) for i in range(12)]
    assert cohort.patients["age"].tolist() == [41.5, 45.5, 49.5]
    report = cohort.info.import_report
    expected = {"rows": 12, "images": 12, "lesions": 6, "patients": 3, "absent": 0, "corrupt": 0}
    assert {key: report[key] for key in expected} == expected
    assert report["disagreements"][0]["column"] == "age"
    assert report["options"] == {
        "shorter_side": 320,
        "max_corrupt": 0.01,
        "max_absent": 1.0,
        "missing_patient_id": "refuse",
    }
    assert left_in(tmp_path) == ["c"]
    json.dumps(dict(report), allow_nan=False)


def test_images_stay_with_their_rows_whatever_the_threads_do(tmp_path):
    """Later images are ready before earlier ones; order must not change."""
    gate = threading.Event()

    def opener(cell: str) -> bytes:
        number = int(cell[1:-4])
        if number == 0:
            gate.wait(5)
        if number == GROUP:  # the first that another thread has
            gate.set()
        return jpeg(number)

    raw = raw_table(100, opener)
    cohort = run(raw, tmp_path / "c")
    assert [cohort.read_image(i) for i in range(100)] == [jpeg(i) for i in range(100)]


def test_few_images_are_held_at_a_time(tmp_path):
    """Memory must not grow with the cohort: opening waits for writing."""
    opened, ahead = 0, 0

    def opener(cell: str) -> bytes:
        nonlocal opened
        opened += 1
        return jpeg(1)

    def progress(done: int, total: int) -> None:
        nonlocal ahead
        ahead = max(ahead, opened - done)

    run(raw_table(1000, opener), tmp_path / "c", progress=progress)
    assert 0 < ahead <= (2 * THREADS + 1) * GROUP


def test_rows_without_image_are_dropped_with_their_families(tmp_path):
    files = {f"i{k}.png": jpeg(k) for k in range(12) if k not in (1, 4, 5, 6, 7)}
    cohort = run(raw_table(files=files), tmp_path / "c")
    assert cohort.images["image_id"].tolist() == ["i0", "i2", "i3", "i8", "i9", "i10", "i11"]
    assert cohort.patients["patient_id"].tolist() == ["p0", "p2"]
    assert cohort.patients["age"].tolist() == [42, 49.5], "resolved among the rows that stay"
    report = cohort.info.import_report
    assert (report["rows"], report["images"], report["absent"]) == (12, 7, 5)
    assert report["absent_examples"] == ["i1.png", "i4.png", "i5.png", "i6.png", "i7.png"]
    assert cohort.read_image(6) == jpeg(11)


def test_many_absent_images_are_a_warning(tmp_path):
    def warnings(absent: int, published: int | None = None) -> list[str]:
        files = {f"i{k}.png": jpeg(k) for k in range(absent, 40)}
        target = tmp_path / f"{absent}, {published}"
        cohort = run(replace(raw_table(40, files), published=published), target)
        return [w for w in cohort.info.import_report["warnings"] if " here" in w]

    assert warnings(4) == warnings(0, 40) == warnings(0, 30) == []
    assert warnings(5) == ["5 of 40 rows (12%) have no image here and were dropped"]
    assert warnings(1, 40) == ["39 of 40 published images are here"]
    assert warnings(0, 1040) == ["40 of 1,040 published images are here"]


def test_corrupt_images_beyond_the_limit_fail(tmp_path):
    files = {f"i{k}.png": jpeg(k) for k in range(12)} | {"i7.png": b"no image", "i9.png": b""}
    with pytest.raises(CohortError) as error:
        run(raw_table(files=files), tmp_path / "c")
    assert "1 of 8 images read are corrupt" in str(error.value), "it stops as soon as it must"
    assert "i7.png (not an image)" in str(error.value)
    assert "--max-corrupt" in str(error.value)
    assert left_in(tmp_path) == []
    options = ImportOptions(max_corrupt=0.2)
    cohort = run(raw_table(files=files), tmp_path / "c", options=options)
    examples = cohort.info.import_report["corrupt_examples"]
    assert examples == ["i7.png (not an image)", "i9.png (an empty file)"]
    assert cohort.read_image(7) == jpeg(8)


FOUR = {f"i{k}.png": jpeg(k) for k in range(4)}


@pytest.mark.parametrize(
    ("files", "limits", "message"),
    [
        ({"i0.png": b"no", "i1.png": b""}, (1, 1), r"all 2 images .* corrupt: i0\.png \(not an im"),
        # a share of the images found: of 12 rows one might be corrupt, but only 5 have an image
        (FOUR | {"i7.png": b""}, (0.1, 1), "1 of 5 images read"),
        ({}, (0, 1), r"none of the 12 images .*Looked in the drawer, .*i0\.jpg"),
        (FOUR, (0, 0.6), r"8 of 12 images are absent, .* 60\.0%, such as i4\.png"),
    ],
)
def test_images_that_do_not_suffice(tmp_path, files, limits, message):
    options = ImportOptions(max_corrupt=limits[0], max_absent=limits[1])
    with pytest.raises(CohortError, match=message):
        run(raw_table(files=files), tmp_path / "c", options=options)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "wrong", [{"shorter_side": -1}, {"max_absent": 1.5}, {"max_corrupt": float("nan")}]
)
def test_options_that_mean_nothing_are_a_users_mistake(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        ImportOptions(**wrong)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, TableError, signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_nothing(tmp_path, stop):
    def progress(done: int, total: int) -> None:
        assert total == 100
        if done == 50:
            if isinstance(stop, signal.Signals):
                os.kill(os.getpid(), stop)
            else:
                raise stop

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt if isinstance(stop, signal.Signals) else stop):
        run(raw_table(100), tmp_path / "c", progress=progress)
    assert left_in(tmp_path) == []
    assert threading.active_count() == threads


def test_the_target_is_checked_before_any_work(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text("1")

    def opener(cell: str) -> bytes:
        pytest.fail("an image was opened")

    with pytest.raises(UserError, match="is not empty"):
        run(raw_table(files=opener), tmp_path / "c")
    assert left_in(tmp_path / "c") == ["config.json"]
    assert len(run(raw_table(), tmp_path / "c", overwrite=True)) == 12


def test_two_imports_to_one_target_do_not_replace_each_other(tmp_path):
    def progress(done: int, total: int) -> None:
        if done == total:
            run(raw_table(4), tmp_path / "c")

    with pytest.raises(UserError, match="is not empty"):
        run(raw_table(), tmp_path / "c", progress=progress)
    assert len(Cohort.load(tmp_path / "c")) == 4
