import os
import sys

import pytest

from pruning_core.errors import ComputationError
from tasks.orchestration import prefect_settings


@pytest.fixture
def bare(monkeypatch):
    for name in list(os.environ):
        if name.startswith("PREFECT_") or name == "DO_NOT_TRACK":
            monkeypatch.delenv(name)
    # What the call under test sets is taken back with the rest.
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_prefect_is_quiet_offline_and_inside_the_workspace(bare, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    prefect_settings.apply(tmp_path)
    assert os.environ["PREFECT_HOME"] == str(tmp_path / ".espalier" / "prefect")
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert os.environ["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"


def test_what_the_user_has_set_stays(bare, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    os.environ["PREFECT_LOGGING_LEVEL"] = "DEBUG"
    prefect_settings.apply(tmp_path)
    assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"


def test_settings_that_come_too_late_are_an_error_not_ignored(bare, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "prefect", object())
    with pytest.raises(ComputationError, match="imported before PREFECT_HOME"):
        prefect_settings.apply(tmp_path)


def test_settings_that_were_applied_in_time_may_be_applied_again(tmp_path):
    prefect_settings.apply(tmp_path)
    assert os.environ["PREFECT_HOME"] != str(tmp_path / ".espalier" / "prefect")
