from __future__ import annotations

import numpy as np
import pytest

from slimp.checks.image_statistics import picture_facts
from slimp.checks.scan import AHEAD, MEASURED, WHOLE, scan_images


def test_facts_are_in_the_order_of_the_rows(cohort):
    whole = cohort(encoded={"i003": b"<html>"})
    scan = scan_images(whole)
    assert scan.facts["image_id"].tolist() == whole.images["image_id"].tolist()
    assert scan.thumbnails.shape == (120, 32, 32)
    assert scan.facts.loc[3, "problem"].startswith("no known image format")
    assert not scan.thumbnails[3].any()
    assert scan.good.index.tolist() == [k for k in range(120) if k != 3]
    for row in (0, 2, 64, 119):
        alone = picture_facts(whole.read_image(row))
        np.testing.assert_array_equal(scan.thumbnails[row], alone.thumbnail)
        assert scan.facts.loc[row, "pixels"] == alone.pixels
        for name in (*WHOLE, *MEASURED):
            assert scan.facts.loc[row, name] == pytest.approx(getattr(alone, name))


def test_each_image_is_read_once_and_an_interrupted_scan_stops(cohort, monkeypatch):
    whole = cohort()
    read = []
    store = whole.store

    class Counting:
        def __len__(self):
            return len(store)

        def read(self, position):
            read.append(position)
            return store.read(position)

    object.__setattr__(whole, "store", Counting())
    scan_images(whole)
    assert sorted(read) == list(range(120))
    read.clear()

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_images(whole, stop)
    assert len(read) <= AHEAD
