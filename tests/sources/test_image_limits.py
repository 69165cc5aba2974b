"""How many pixels are too many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.sources import dicom
from slimp.sources import verify_image as verify
from slimp.sources.image_limits import MAX_PIXELS, CorruptImageError, check_size


@given(st.integers(1, MAX_PIXELS))
def test_the_limit_is_on_the_product_alone(width):
    height = MAX_PIXELS // width
    check_size(width, height)
    with pytest.raises(CorruptImageError, match=f"too large: {width} x {height + 1} pixels"):
        check_size(width, height + 1)


def test_there_is_one_reason_to_refuse_for_all_kinds_of_files():
    assert dicom.CorruptImageError is verify.CorruptImageError is CorruptImageError
    assert verify.MAX_PIXELS == MAX_PIXELS
