"""`dbos-mcp serve --http` as a process of its own, from its start to a signal."""

import json
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from dbos_mcp.domain import Rights
from dbos_mcp.serving.tokens import TokenFile
from tests.command_line import command, environment
from tests.serving.conftest import headers_of, message
from tests.upstream import APP

pytestmark = pytest.mark.e2e


def test_it_serves_until_a_signal_and_tells_no_token(shop_database: Path, tmp_path: Path) -> None:
    token, _ = TokenFile(tmp_path / ".dbos-mcp" / "tokens.json").create("ci", Rights.FULL)
    variables = {"DBOS_SYSTEM_DATABASE_URL": f"sqlite:///{shop_database}"}
    with subprocess.Popen(
        command("serve", "--http", "--port", "0"),
        env=environment(tmp_path, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            url = process.stderr.readline().split()[4].removesuffix(";")
            call = message(
                "tools/call", "cancel_workflow", application_name=APP, workflow_id="reconcile-1"
            )
            headers = headers_of("tools/call", "cancel_workflow")
            with httpx.Client(timeout=60, trust_env=False) as http:
                refused = http.post(url, content=call, headers=headers)
                bearer = {"authorization": f"Bearer {token}"}
                done = http.post(url, content=call, headers=headers | bearer)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert refused.status_code == 401
    assert "server" not in refused.headers
    assert not done.json()["result"].get("isError"), done.text
    assert process.returncode == 0
    assert out == ""
    assert token not in err
    audited = [json.loads(line) for line in err.splitlines() if '"dbos_mcp.audit"' in line]
    assert [(line["who"], line["tool"], line["outcome"]) for line in audited] == [
        ("ci", "cancel_workflow", "1 done")
    ]
