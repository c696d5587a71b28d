"""docs/tutorials/schedule-it.md does what it says."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]


def test_a_new_checkpoint_is_compressed_and_judged_as_the_page_says(read):
    read("README.md", "schedule-it.md")
