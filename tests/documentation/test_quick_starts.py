"""The quick starts of the README, run as they are printed."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.portal import ROOT

README = (ROOT / "README.md").read_text()
QUICK_START = (ROOT / "smsportal/api/quick_start.md").read_text()
BLOCKS = dict(re.findall(r"```(sh|python|js)\n(.*?)```", QUICK_START, re.DOTALL))


@pytest.fixture
def run(portal, tmp_path):
    """Runs a block as a file; returns what it printed."""

    def run(language, program, name):
        assert shutil.which(program), f"{program} is missing"
        file = tmp_path / name
        file.write_text(BLOCKS[language])
        told = {"PUBLIC_URL": portal.told["baseUrl"], "API_KEY": portal.told["apiKey"]}
        done = subprocess.run(
            [program, str(file)], env=os.environ | told, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def of(portal, text):
    (entry,) = (entry for entry in portal.log().values() if entry["message"] == text)
    return entry


def test_the_readme_prints_them_as_the_page_of_the_api_does(portal):
    assert QUICK_START in README
    assert QUICK_START in yaml.safe_load(portal.get("/api/schema").text)["info"]["description"]


def test_curl_sends_a_message(portal, run):
    entry = json.loads(run("sh", "sh", "send.sh"))

    assert entry["status"] == "sent"
    assert of(portal, "Your code is 123456")["outboxId"] == entry["outboxId"]


def test_python_sends_a_message_and_sends_it_again_when_it_failed(portal, run):
    printed = run("python", sys.executable, "send.py")

    entry = of(portal, "Your parcel is here")
    assert printed.startswith(f"{entry['outboxId']} failed 0.8 KES\n")
    assert entry["retryCount"] == 1


def test_node_sends_a_message(portal, run):
    printed = run("js", "node", "send.mjs")

    assert printed == f"{of(portal, 'Hello from Node')['outboxId']} sent 0.8 KES\n"
