"""The edges of the API: what a request may be, whom it may ask for, and what happens when the
database is not there."""

import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import anyio
import httpx
import pytest
import sqlalchemy as sa

from dbos_mcp.errors import UsageError
from dbos_mcp.local_conductor.app import serve
from dbos_mcp.local_conductor.system_database import SystemDatabase
from tests.local_conductor.conftest import Tables, open_client

on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
"""For what is refused before any database is asked."""


def locations(response: httpx.Response) -> set[str]:
    return {error["location"] for error in response.json()["errors"]}


@pytest.mark.parametrize(
    "workflow_id",
    ["a/b", "a%2Fb", "50% off?#1", "two words", "Bücher/ключ/鍵", "search", ".well", "a+b:c@d"],
)
async def test_an_id_may_hold_what_a_path_may_not(
    shop: httpx.AsyncClient, tables: Tables, workflow_id: str
) -> None:
    fork = await shop.post("/workflows/order-1005/fork", json={"newWorkflowId": workflow_id})
    path = f"/workflows/{quote(workflow_id, safe='')}"
    assert fork.headers["location"].endswith(path)
    assert (await shop.get(path)).json()["workflowId"] == workflow_id
    assert (await shop.get(f"{path}/steps")).json() == []
    assert (await shop.post(f"{path}/cancel")).status_code == 204
    assert (await shop.delete(path)).status_code == 204
    assert tables.column("SELECT 1 FROM workflow_status WHERE forked_from IS NOT NULL") == []


@pytest.mark.parametrize("segment", ["%00", "a%00b", "%FF", "%ED%A0%80"])
async def test_an_id_that_no_database_stores_is_refused(
    shop: httpx.AsyncClient, segment: str
) -> None:
    for path in (f"/workflows/{segment}", f"/workflows/{segment}/steps", f"/queues/{segment}"):
        answer = await shop.get(path)
        assert answer.status_code == 422
        assert {where.partition(".")[0] for where in locations(answer)} == {"path"}


@pytest.mark.parametrize("text", ['"\\u0000"', '"\\ud800"'])
@pytest.mark.parametrize("field", ['"workflowIds": [%s]', '"attributes": {"a": {%s: [%s]}}'])
async def test_a_body_that_no_database_stores_is_refused(
    shop: httpx.AsyncClient, field: str, text: str
) -> None:
    body = "{" + field.replace("%s", text) + "}"
    answer = await shop.post("/workflows/search", content=body)
    assert answer.status_code == 422
    assert all(where.startswith("body.") for where in locations(answer))


@on_sqlite
@pytest.mark.parametrize(
    "body", ["{", "[1,", '{"limit": NaN}', '{"limit": 1e999}', "\xff", "[" * 100_000, ""]
)
async def test_what_is_not_json_is_a_bad_request(shop: httpx.AsyncClient, body: str) -> None:
    path = "/workflows/search" if body else "/workflows/bulk-cancel"  # where a body is required
    answer = await shop.post(path, content=body.encode("latin-1"))
    assert answer.status_code == 400


@on_sqlite
@pytest.mark.parametrize(
    ("body", "location"),
    [
        ([], "body"),
        (None, "body"),
        ({"limit": -1}, "body.limit"),
        ({"limit": 2**63}, "body.limit"),
        ({"limit": "5"}, "body.limit"),
        ({"limit": 1.5}, "body.limit"),
        ({"limit": True}, "body.limit"),
        ({"limit": None}, "body.limit"),
        ({"offset": -1}, "body.offset"),
        ({"status": "ERROR"}, "body.status"),
        ({"status": [None]}, "body.status.0"),
        ({"hasParent": "true"}, "body.hasParent"),
        ({"hasParent": None}, "body.hasParent"),
        ({"startTime": "2026-01-01T00:00:00"}, "body.startTime"),
        ({"startTime": "2026-01-01 00:00:00Z"}, "body.startTime"),
        ({"startTime": "2026-13-01T00:00:00Z"}, "body.startTime"),
        ({"startTime": 0}, "body.startTime"),
        ({"attributes": None}, "body.attributes"),
        ({"workflow_ids": ["a"]}, "body.workflow_ids"),
        ({"surprise": 1}, "body.surprise"),
    ],
)
async def test_a_body_that_the_contract_refuses_is_unprocessable(
    shop: httpx.AsyncClient, body: object, location: str
) -> None:
    answer = await shop.post(
        "/workflows/search",
        content="null" if body is None else httpx.Request("POST", "/", json=body).content,
    )
    assert answer.status_code == 422
    assert location in locations(answer)


@on_sqlite
@pytest.mark.parametrize(
    "query",
    ["limit=-1", "limit=x", "limit=1_0", "limit=9223372036854775808", "offset=-1", "sortDesc=yes"],
)
async def test_a_query_that_the_contract_refuses_is_unprocessable(
    shop: httpx.AsyncClient, query: str
) -> None:
    answer = await shop.get(f"/workflows?{query}")
    assert answer.status_code == 422
    assert locations(answer) == {f"query.{query.partition('=')[0]}"}


@on_sqlite
async def test_a_step_must_fit_32_bits_and_a_bucket_must_have_a_size(
    shop: httpx.AsyncClient,
) -> None:
    fork = await shop.post("/workflows/order-1005/fork", json={"startStep": 2**31})
    assert locations(fork) == {"body.startStep"}
    bucket = await shop.post("/workflows/aggregates", json={"timeBucketSizeMs": 0})
    assert locations(bucket) == {"body.timeBucketSizeMs"}


async def test_a_body_may_name_its_schema_and_write_an_integer_with_a_point(
    shop: httpx.AsyncClient,
) -> None:
    schema = "http://local/schemas/WorkflowSearchBody.json"
    body = f'{{"$schema": "{schema}", "limit": 2.0}}'
    answer = await shop.post("/workflows/search", content=body)
    assert len(answer.json()) == 2


async def test_a_body_may_be_missing_though_its_type_is_announced(shop: httpx.AsyncClient) -> None:
    announced = {"content-type": "application/json"}
    cancelled = await shop.post("/workflows/reconcile-1/cancel", headers=announced)
    assert cancelled.status_code == 204


@on_sqlite
@pytest.mark.parametrize("depth", [99, 101, 900])
async def test_a_deep_body_is_read_down_to_a_depth(shop: httpx.AsyncClient, depth: int) -> None:
    body = '{"attributes": {"a": ' + "[" * depth + "]" * depth + "}}"
    answer = await shop.post("/workflows/search", content=body)
    assert (answer.status_code == 422) is (depth > 100)


async def test_another_organization_or_application_is_not_found(
    system_database: SystemDatabase,
) -> None:
    async with open_client(system_database) as client:
        for path in ("/v2/orgs/other/apps", "/v2/orgs/other/apps/shop/workflows"):
            assert (await client.get(f"http://local{path}")).status_code == 404
        assert (await client.get("/apps/bakery")).status_code == 404
        assert (await client.get("/apps/bakery/workflows")).status_code == 404


async def test_an_unknown_route_is_a_problem_and_a_wrong_method_is_told_the_right_ones(
    shop: httpx.AsyncClient,
) -> None:
    for path in ("/workflows/", "/workflows/a/b", "/nothing", "http://local/openapi.json"):
        unknown = await shop.get(path)
        assert unknown.status_code == 404
        assert unknown.headers["content-type"] == "application/problem+json"
    wrong = await shop.put("/workflows/order-1005")
    assert wrong.status_code == 405
    assert set(wrong.headers["allow"].split(", ")) == {"DELETE", "GET"}
    assert wrong.json()["title"] == "Method Not Allowed"
    assert (await shop.head("/workflows")).status_code == 405


async def test_a_web_page_is_refused(shop: httpx.AsyncClient, tables: Tables) -> None:
    origin = {"origin": "https://example.com"}
    refused = await shop.post("/workflows/reconcile-1/cancel", headers=origin)
    assert refused.status_code == 403
    assert tables.column("SELECT 1 FROM workflow_status WHERE status = 'CANCELLED'") == []


async def test_a_row_that_cannot_be_told_is_a_problem_not_a_crash(
    shop: httpx.AsyncClient, tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    tables.change("UPDATE workflow_status SET created_at = 99999999999999999")
    answer = await shop.get("/workflows")
    assert answer.status_code == 500
    assert "is not a time of the calendar" in answer.json()["detail"]
    assert "GET /v2/orgs/local/apps/shop/workflows failed" in caplog.text


async def test_a_missing_file_is_unavailable_and_stays_missing(missing_file: Path) -> None:
    database = SystemDatabase(f"sqlite:///{missing_file}", ["shop"])
    async with open_client(database) as client:
        assert [app["status"] for app in (await client.get("/apps")).json()] == ["UNAVAILABLE"]
        assert (await client.get("/apps/shop")).json()["status"] == "UNAVAILABLE"
        for method, path in (
            ("GET", "/workflows"),
            ("GET", "/workflows/a/events"),
            ("GET", "/versions"),
            ("GET", "/schedules"),
            ("POST", "/workflows/a/cancel"),
            ("DELETE", "/workflows/a"),
        ):
            answer = await client.request(method, f"/apps/shop{path}")
            assert answer.status_code == 503, path
        assert (await client.get("http://local/healthz")).status_code == 503
    database.close()
    assert not await anyio.Path(missing_file).exists()


async def test_without_given_names_a_missing_file_has_no_list_of_applications(
    missing_file: Path,
) -> None:
    database = SystemDatabase(f"sqlite:///{missing_file}")
    async with open_client(database) as client:
        assert (await client.get("/apps")).status_code == 503
        assert (await client.get("/apps/shop/workflows")).status_code == 503
    database.close()


@pytest.mark.parametrize("content", [b"", b"this is no database" * 100])
async def test_a_file_that_is_no_system_database_is_unavailable(
    missing_file: Path, content: bytes
) -> None:
    await anyio.Path(missing_file).write_bytes(content)
    database = SystemDatabase(f"sqlite:///{missing_file}", ["shop"])
    async with open_client(database) as client:
        assert (await client.get("/apps/shop/workflows")).status_code == 503
        assert (await client.get("/apps/shop/queues")).status_code == 503
    database.close()
    assert await anyio.Path(missing_file).read_bytes() == content


async def test_a_file_that_goes_and_comes_back_is_noticed(shop_database: Path) -> None:
    database = SystemDatabase(f"sqlite:///{shop_database}")
    elsewhere = shop_database.with_suffix(".moved")
    async with open_client(database) as client:
        assert (await client.get("/apps/shop/workflows?limit=1")).status_code == 200
        await anyio.Path(shop_database).rename(elsewhere)
        assert (await client.get("/apps/shop/workflows?limit=1")).status_code == 503
        await anyio.Path(elsewhere).rename(shop_database)
        assert (await client.get("/apps/shop/workflows?limit=1")).status_code == 200
    database.close()


async def test_a_refusing_server_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"postgresql://nobody@127.0.0.1:{unused.getsockname()[1]}/shop"
        database = SystemDatabase(url, ["shop"])
        async with open_client(database) as client:
            assert (await client.get("/apps/shop")).json()["status"] == "UNAVAILABLE"
            assert (await client.get("/apps/shop/workflows")).status_code == 503
            assert (await client.get("/apps/shop/queues")).status_code == 503
        database.close()


@pytest.mark.parametrize("database_name", ["postgres", "nowhere"])
async def test_a_server_without_the_system_tables_is_unavailable(
    postgres_leftover: str, database_name: str
) -> None:
    database = SystemDatabase(postgres_leftover.format(database_name), ["shop"])
    async with open_client(database) as client:
        assert (await client.get("/apps/shop/workflows")).status_code == 503
        assert (await client.get("/apps/shop/queues")).status_code == 503
    database.close()


async def test_applications_are_those_that_own_rows(
    system_database: SystemDatabase, tables: Tables
) -> None:
    async with open_client(system_database) as client:
        tables.change("UPDATE queues SET application_name = 'bakery' WHERE name = 'emails'")
        tables.change("UPDATE workflow_status SET application_name = 'florist'")
        assert [app["name"] for app in (await client.get("/apps")).json()] == ["bakery", "shop"]
        for table in ("queues", "application_versions", "workflow_schedules"):
            tables.change(f"UPDATE {table} SET application_name = NULL")
        assert [app["name"] for app in (await client.get("/apps")).json()] == ["florist"]


async def test_our_own_reads_cannot_write(system_database: SystemDatabase) -> None:
    with system_database.reading() as connection, pytest.raises(sa.exc.DBAPIError):
        connection.execute(sa.text("DELETE FROM queues"))


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://localhost/shop", "no url"]
)
def test_a_url_that_names_no_system_database_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        SystemDatabase(url)


def test_without_dbos_the_hint_is_what_to_install() -> None:
    program = (
        "import sys; sys.modules['dbos'] = None\n"
        "from dbos_mcp.local_conductor.system_database import SystemDatabase\n"
        "SystemDatabase('sqlite:///shop.sqlite')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "UsageError: DBOS is not installed. Install it with `dbos-mcp[local]`." in ran.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com"])
def test_it_is_served_to_this_machine_only(shop_database: Path, host: str) -> None:
    database = SystemDatabase(f"sqlite:///{shop_database}")
    with pytest.raises(UsageError):
        serve(database, host=host)
    database.close()


@pytest.mark.e2e
def test_a_served_port_keeps_a_slash_in_an_id_and_stdout_silent(shop_database: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = (
        "from dbos_mcp.local_conductor.app import serve\n"
        "from dbos_mcp.local_conductor.system_database import SystemDatabase\n"
        f"serve(SystemDatabase({f'sqlite:///{shop_database}'!r}), port={port})"
    )
    command = [sys.executable, "-c", program]
    url = f"http://127.0.0.1:{port}/v2/orgs/local/apps/shop/workflows"
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client,
    ):
        client.post(f"{url}/order-1005/fork", json={"newWorkflowId": "a/b"})
        found = client.get(f"{url}/a%2Fb?x=%2F")
        steps = client.get(f"{url}/a%2Fb/steps")
        elsewhere = client.get(url, headers={"host": "example.com"})
        process.terminate()
        output, _ = process.communicate()
    assert (found.json()["workflowId"], steps.json()) == ("a/b", [])
    assert elsewhere.status_code == 400
    assert output == ""
