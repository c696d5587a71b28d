"""docs/tutorials/move-to-a-cluster.md does what it says."""

from importlib.util import find_spec

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]


def test_a_folder_moves_to_more_processes_as_the_page_says(read):
    dask = find_spec("prefect_dask") is not None
    read("README.md", "move-to-a-cluster.md", without="" if dask else "name: dask")
    if not dask:
        pytest.skip("all but the block of Dask, which is not installed: pip install 'espalier[dask]'")
