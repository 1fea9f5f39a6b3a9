"""Numbers and choices that arguments may be."""

import math
import re

import numpy as np
import pytest

from sb3_dai.checks import check_choice, check_number

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("kwargs", "good", "bad"),
    [
        (
            dict(low=0, high=1),
            (0, 1, 0.5, np.float32(0.5), np.int8(1)),
            (-1e-9, 1 + 1e-9, NAN, "0.5", None, False, 0j, np.bool_(True)),
        ),
        (dict(low=-1, whole=True), (-1, 0, 10**12, np.uint8(3)), (-2, 0.0, 1.0, np.float64(1.0), True, INF)),
        (dict(low=-INF), (-1e300, 0, 1e300), (-INF, INF, NAN)),
    ],
)
def test_check_number(kwargs, good, bad):
    for value in good:
        check_number("name", value, **kwargs)
    for value in bad:
        with pytest.raises(ValueError, match=re.escape(f"name={value!r}: give a")):
            check_number("name", value, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "bounds"),
    [
        (dict(low=0, high=1), "give a finite number between 0 and 1"),
        (dict(low=2, whole=True), "give a whole number of at least 2"),
        (dict(low=-INF), "give a finite number"),
    ],
)
def test_check_number_tells_the_bounds(kwargs, bounds):
    with pytest.raises(ValueError, match=f"{bounds}$"):
        check_number("name", NAN, **kwargs)


def test_check_choice():
    check_choice("name", "a", "a", "b")
    with pytest.raises(ValueError, match=r"""^name='c': choose "a" or "b"$"""):
        check_choice("name", "c", "a", "b")
