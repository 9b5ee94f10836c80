"""Sizes as people read them."""

import pytest

from stratatune.units import readable_size


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (999, "999 B"),
        (999.6, "1.0 kB"),
        (1500, "1.5 kB"),
        (999_960, "1.0 MB"),
        (999.99e9, "1.0 TB"),
        (2.5e15, "2500.0 TB"),
    ],
)
def test_what_rounds_to_a_thousand_is_one_of_the_next_unit(count, said):
    assert readable_size(count) == said
