"""Schemathesis against the running portal: what the schema allows is served, what it forbids refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.portal import ROOT

HERE = Path(__file__).parent
SEED = os.environ.get("FUZZ_SEED", "1")
# How many cases, at least; left out: what 90 seconds allow.
CASES = int(os.environ.get("FUZZ_CASES", "0"))
SHARE = 20  # of them for each call; some calls have few cases, and there are chains of calls besides
MINUTES = 60  # before it is stuck


def schemathesis(portal, report, *extent):
    return subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "--config-file", str(HERE / "schemathesis.toml")),
            *("--no-color", "run", f"{portal.told['baseUrl']}/api/schema"),
            *("--header", f"Authorization: Bearer {portal.told['apiKey']}"),
            *("--checks", "all", "--seed", SEED, *extent, "--generation-database", "none"),
            *("--request-timeout", "60", "--report", "json", "--report-json-path", str(report)),
        ],
        cwd=report.parent,  # it keeps what failed in a folder
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=MINUTES * 60,
        check=False,
    )


def test_no_call_fails_and_no_answer_is_outside_the_schema(portal, tmp_path):
    report = tmp_path / "report.json"
    extent = ("--max-examples", str(CASES // SHARE)) if CASES else ("--max-time", "90")
    print(f"\nFUZZ_SEED={SEED} makes the same cases again")

    done = schemathesis(portal, report, *extent)

    found = json.loads(report.read_text())
    assert (done.returncode, found["failures"], found["errors"]) == (0, [], [])
    assert found["operations"]["tested"] == found["operations"]["total"]
    assert found["test_cases"]["generated"] >= max(CASES, 1)
    assert portal.manage("audit", "--no-progress").returncode == 0
