"""What a flow that loses its server says; the loss itself is tried by make chaos."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import yaml

from flows import launch

REQUEST = httpx.Request("POST", "http://127.0.0.1:4200/api/flow_runs/")


def status_error(code: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("no", request=REQUEST, response=httpx.Response(code, request=REQUEST))


@pytest.fixture
def run(make_workspace, monkeypatch):
    """run(error): a flow that ends with this error."""
    root = make_workspace()
    monkeypatch.chdir(root)
    assert "magnitude-50" in yaml.safe_load((root / "params.yaml").read_text())["variants"]

    def fails(error: Exception) -> None:
        def flow(**parameters) -> None:
            assert Path(parameters["root"]) == root
            raise error

        module = contextlib.nullcontext(SimpleNamespace(compress=flow))
        monkeypatch.setattr(launch, "prepare_flow", lambda *given: module)
        launch.run_flow("compress", True, None, variant="magnitude-50")

    return fails


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (httpx.ConnectError("refused"), "stopped answering"),
        (httpx.ReadTimeout("too long"), "stopped answering"),
        (status_error(503), "failed"),
    ],
)
def test_a_lost_server_is_told_with_what_to_do(run, error: Exception, word: str):
    with pytest.raises(launch.ServerLost, match=f"Prefect's server {word} during the run; .* the same command goes on"):
        run(error)


def test_an_answer_that_is_our_own_fault_is_not_called_a_lost_server(run):
    with pytest.raises(httpx.HTTPStatusError):
        run(status_error(422))
