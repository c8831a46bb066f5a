"""`manage.py demo`: everything runs, what it prints works, and nothing is left behind."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.portal import ROOT, free_port, running_portal


@pytest.fixture
def database_url(cluster):
    return cluster.url


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_the_demo_prints_works_and_nothing_is_left_behind(tmp_path: Path, database_url):
    with running_portal(tmp_path, database_url) as portal:
        printed = (tmp_path / "portal.log").read_text()
        curl = re.search(r"curl .*?'\{.*?\}'", printed, re.DOTALL)[0]
        body = json.loads(shlex.split(curl.replace("\\\n", ""))[-1])
        assert portal.post("/api/sms/send", body).status_code == 201
        wait_for(lambda: [e["deliveryStatus"] for e in portal.log().values()] == ["delivered"])

        chunks = requests.post(
            f"{portal.told['baseUrl']}/api/sms/send",
            data=iter([b'{"recipientPhoneNumber": "+254711000', b'099", "message": "in chunks"}']),
            headers={"Authorization": f"Bearer {portal.told['apiKey']}", "Content-Type": "application/json"},
            timeout=30,
        )
        assert (chunks.status_code, chunks.json()["message"]) == (201, "in chunks")

        for username, password in (("username", "password"), ("adminUsername", "adminPassword")):
            session = requests.Session()
            page = session.get(f"{portal.told['baseUrl']}/login/", timeout=30)
            token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]
            form = {"username": portal.told[username], "password": portal.told[password]}
            answer = session.post(page.url, {**form, "csrfmiddlewaretoken": token}, allow_redirects=False, timeout=30)
            assert answer.status_code == 302
        command = re.search(r"^  (\. .*audit)$", printed, re.MULTILINE)[1]
        bare = {"PATH": os.environ["PATH"]}
        audit = subprocess.run(command, shell=True, cwd=ROOT, env=bare, capture_output=True, text=True, check=True)
        assert audit.stdout.endswith(": the books are right.\n")
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(portal.process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        assert len(children) >= 2
        first = portal.told

    for pid in children:
        assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(requests.ConnectionError):
        requests.get(first["baseUrl"], timeout=5)


def test_data_and_log_ins_survive_a_restart_and_settings_hold(tmp_path: Path, database_url):
    with running_portal(tmp_path, database_url) as portal:
        first, entries = portal.told, portal.log()
    port = free_port()
    with running_portal(tmp_path, database_url, port, SMS_MAX_SEGMENTS="1") as portal:
        assert portal.told == first | {"baseUrl": f"http://127.0.0.1:{port}"}
        assert portal.log().keys() == entries.keys()
        long = {"recipientPhoneNumber": "+254711000099", "message": "x" * 161}
        assert portal.post("/api/sms/send", long).json()["code"] == "too_many_segments"


def test_a_taken_port_is_said_in_one_line(tmp_path: Path, database_url):
    with running_portal(tmp_path, database_url) as portal:
        port = portal.told["baseUrl"].rsplit(":", 1)[1]
        second = portal.manage("demo", "--port", port)

    assert second.returncode == 1
    assert second.stderr == f"CommandError: Port {port} is in use: stop what uses it, or choose another with --port.\n"


def test_a_command_without_its_settings_says_which_are_missing():
    bare = {"PATH": os.environ["PATH"], "DATABASE_URL": ""}  # empty: no .env fills it in
    command = [sys.executable, "manage.py", "top_up", "demo", "1", "--reason", "x"]
    done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "Set DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr
