from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from slimp.checks.missingness import MOST_PATTERNS, missingness
from slimp.checks.published import Published
from slimp.checks.report import check_cohort


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=30))
def test_patterns_equal_a_count_row_by_row(rows):
    empty = np.array(rows)
    names = [f"c{k}" for k in range(5)]
    columns = []
    for k, name in enumerate(names):
        values = pd.Series(np.where(empty[:, k], np.nan, 1.0))
        columns.append(Published(name=name, role="feature", own=values, values=values))
    columns.append(Published(name="other", role="unused", own=values, values=values))
    found = missingness(columns)
    slow = Counter(tuple(n for n, gap in zip(names, row, strict=True) if gap) for row in rows)
    assert found.num_patterns == len(slow)
    told = {pattern.missing: pattern.images for pattern in found.patterns}
    assert len(told) == min(len(slow), MOST_PATTERNS)
    assert all(slow[missing] == images for missing, images in told.items())
    assert list(told.values()) == sorted(slow.values(), reverse=True)[: len(told)]
    assert list(found.shares.values()) == empty.mean(axis=0).tolist()
    for block in found.blocks:
        gaps = [empty[:, names.index(name)].tolist() for name in block]
        assert len(gaps) > 1
        assert all(gap == gaps[0] for gap in gaps)


def test_a_form_that_was_not_used(clean_tables, cohort, codes, only):
    tables = clean_tables()
    unused = np.random.default_rng(0).random(120) < 0.3
    tables["lesions"].loc[unused, ["diameter", "itch"]] = np.nan
    assert codes(check_cohort(cohort(tables))) == set()
    tables["lesions"].loc[unused, "bleed"] = pd.NA
    finding = only(check_cohort(cohort(tables)), "missing-block")
    assert finding.example == "diameter, itch and bleed"
    assert f"{unused.mean():.1%} of the images" in finding.message


def test_no_features_no_pattern():
    assert missingness([]).patterns == ()
