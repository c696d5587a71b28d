"""The two servers, started for real: found again, looked at in a browser, and gone after stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from browser import browser, needs_browser, text_of, wait_for
from records import make_records

from flows.servers import ui_servers
from flows.servers.server_process import ServiceProcess, launch, wait_until
from pruning_core.errors import InputError
from tasks.records.variant import parse
from tasks.tracking.runs import track_variant

NAMES = ("dense", "wanda-50", "sparsegpt-50")
# Ignores the first SIGTERM, and has a child that ignores all of them.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child])
time.sleep(600)
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("served workspace")


@pytest.fixture(scope="module")
def records(workspace):
    records = make_records(workspace / ".espalier", NAMES)
    for record in records:
        track_variant(workspace, parse(record), [])
    return records


@pytest.fixture(scope="module")
def running(workspace, records):
    """Both servers, started once; stopped at the end whatever happens."""
    yield ui_servers.start(workspace)
    ui_servers.stop(workspace)


def elsewhere(driver, url):
    """What the browser asked other machines for, failures included."""
    asked = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    failed = [entry["message"] for entry in driver.get_log("browser") if "Failed to load" in entry["message"]]
    local = (url, "data:", "blob:", url.replace("http", "ws"))
    return [name for name in [*asked, *failed] if not name.startswith(local)]


@pytest.mark.slow
def test_started_servers_answer_and_a_second_start_keeps_them(workspace, running):
    assert all(facts["healthy"] for facts in running.values())
    assert ui_servers.start(workspace) == running
    assert ui_servers.status(workspace) == running


@pytest.mark.slow
def test_two_folders_that_start_servers_at_once_get_one_each(tmp_path):
    folders = [tmp_path / "one", tmp_path / "other"]
    try:
        with ThreadPoolExecutor(2) as pool:
            states = [state["mlflow"] for state in pool.map(lambda one: ui_servers.start(one, ["mlflow"]), folders)]
        assert all(state["healthy"] for state in states) and states[0]["port"] != states[1]["port"]
        assert [ui_servers.status(one)["mlflow"] for one in folders] == states
    finally:
        for one in folders:
            ui_servers.stop(one)


@pytest.mark.slow
def test_a_flow_finds_the_address_of_the_running_prefect_server(workspace, running):
    address = ui_servers.api_url(workspace)
    assert address == running["prefect"]["url"] + "/api"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/admin/version", timeout=10) as answer:
        assert json.loads(answer.read()) == "3.9.1"


@pytest.mark.slow
def test_the_servers_listen_on_this_machine_only(running):
    for facts in running.values():
        process = psutil.Process(facts["pid"])
        family = [process, *process.children(recursive=True)]
        listening = {c.laddr.ip for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}


@pytest.mark.slow
@needs_browser
def test_the_run_list_of_mlflow_compares_the_variants(running, records, tmp_path):
    with browser(1760, 900) as driver:
        driver.get(running["mlflow"]["open"])
        wanted = [f"{record['metrics']['perplexity']:.6g}" for record in records]
        seen = wait_for(lambda: all(word in text_of(driver) for word in [*NAMES, *wanted]))
        driver.save_screenshot(str(tmp_path / "mlflow.png"))
        text = text_of(driver)
        assert seen, text
        assert elsewhere(driver, running["mlflow"]["url"]) == []
    # Sorted by perplexity, which is the first metric.
    assert text.index("dense\n") < text.index("sparsegpt-50") < text.index("wanda-50")
    assert text.index("perplexity") < text.index("kl_to_dense")


@pytest.mark.slow
@needs_browser
def test_the_pages_of_prefect_ask_no_other_machine(running, tmp_path):
    with browser() as driver:
        driver.get(running["prefect"]["open"])
        seen = wait_for(lambda: "Deployments" in text_of(driver))
        driver.save_screenshot(str(tmp_path / "prefect.png"))
        assert seen, text_of(driver)
        assert elsewhere(driver, running["prefect"]["url"]) == []


@pytest.mark.slow
def test_stop_ends_both_servers_and_frees_their_ports(workspace, running):
    before = ui_servers.status(workspace)
    assert ui_servers.stop(workspace) == {"prefect": True, "mlflow": True}
    for facts in before.values():
        assert not psutil.pid_exists(facts["pid"])
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", facts["port"])) != 0
    assert ui_servers.api_url(workspace) is None
    assert ui_servers.stop(workspace) == {"prefect": False, "mlflow": False}


def test_a_server_that_ignores_sigterm_is_killed_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.servers.server_process.TERM_SECONDS", (0.5, 0.5))
    program, log = tmp_path / "stubborn.py", tmp_path / "log"
    program.write_text(STUBBORN)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = launch(["stubborn"], environment, log, 0)
    assert wait_until(lambda: "up" in log.read_text(), 20), log.read_text()
    members = process.members()
    assert len(members) == 2
    assert process.stop()
    assert not any(member.is_running() for member in members)


def test_children_that_outlived_a_killed_server_are_stopped_too(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.servers.server_process.TERM_SECONDS", (0.5, 0.5))
    program, log = tmp_path / "stubborn.py", tmp_path / "log"
    program.write_text(STUBBORN)
    process = launch(["stubborn"], {**os.environ, "PYTHONPATH": str(tmp_path)}, log, 0)
    assert wait_until(lambda: "up" in log.read_text(), 20), log.read_text()
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)
    [child] = process.members()
    assert process.stop()
    assert not child.is_running()


def test_a_process_that_was_given_the_same_number_is_left_alone():
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        recorded = ServiceProcess(other.pid, "another boot:1", 0)
        assert not recorded.alive()
        assert not recorded.stop()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_taken_port_is_not_used():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert ui_servers._free_port(port) not in (0, port)


def test_an_unknown_server_is_refused(tmp_path):
    with pytest.raises(InputError, match="choose from prefect, mlflow"):
        ui_servers.start(tmp_path, ["grafana"])
