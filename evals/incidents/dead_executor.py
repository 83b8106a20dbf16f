"""An executor of the old version dies at its work, and only the new version is up."""

from threading import Event, Semaphore
from typing import TYPE_CHECKING, Any

from dbos import DBOS, SetWorkflowID

from evals.application import run_all
from evals.incident import Call, Fact, Incident, Sign, Verdict

if TYPE_CHECKING:
    from evals.upstream import Upstream

_encoding = Semaphore(0)


@DBOS.step()
def download_video(number: int) -> str:
    return f"/tmp/video-{number}"


@DBOS.step()
def encode_video(path: str, hours: bool) -> str:
    if hours:
        _encoding.release()
        Event().wait()  # until the process dies
    return f"{path}.webm"


@DBOS.step()
def publish_video(path: str) -> str:
    return f"https://cdn.example/{path}"


@DBOS.workflow()
def transcode_video(number: int, hours: bool) -> str:
    return publish_video(encode_video(download_video(number), hours))


def _transcode(number: int, hours: bool = False) -> Any:
    with SetWorkflowID(f"video-{number}"):
        return DBOS.start_workflow(transcode_video, number, hours)


def _encode_for_hours(numbers: range) -> None:
    for number in numbers:
        _transcode(number, hours=True)
    for _ in numbers:
        _encoding.acquire()


def transcode_until_it_dies() -> None:
    run_all(_transcode, range(1, 9))
    _encode_for_hours(range(9, 13))


def transcode_with_the_new_version() -> None:
    run_all(_transcode, range(20, 30))
    _encode_for_hours(range(30, 32))  # which is well


async def seed(upstream: "Upstream") -> None:
    await upstream.run(
        transcode_until_it_dies,
        executor_id="encoder-a",
        application_version="1.8.0",
        dies=True,
    )
    await upstream.run(
        transcode_with_the_new_version, executor_id="encoder-b", application_version="1.9.0"
    )


INCIDENT = Incident(
    name="dead_executor",
    application_name="media",
    question="Four videos hang since the deployment while new ones go through: why?",
    seed=seed,
    signs=(
        Sign(
            Call("list_executors"),
            (
                Fact("the dead executor", "encoder-a", "DEAD", "1.8.0"),
                Fact("the other one", "encoder-b", "HEALTHY", "1.9.0"),
            ),
        ),
        Sign(
            Call("list_workflows", {"status": "PENDING", "executor_id": "encoder-a"}),
            (Fact("what hangs", "4 of 4"), Fact("one of them", "video-9", "PENDING")),
        ),
        Sign(
            Call("list_steps", {"workflow_id": "video-9"}),
            (Fact("how far it came", "1 of 1"), Fact("the step", "1", "download_video")),
        ),
    ),
    first_call=Call(
        "list_workflows",
        {"status": ["PENDING", "ENQUEUED", "DELAYED"], "descending": False},  # the oldest first
    ),
    verdict=Verdict(
        facts=(
            Fact("that its executor is dead", "verdict", "encoder-a", "DEAD"),
            Fact("that none of its version is left", "verdict", "no healthy executor", "1.8.0"),
        ),
        forbidden=(
            Fact("that it waits for something", "verdict", "waits|sleeps"),
            Fact("that encoder-b is to blame", "verdict", "encoder-b"),
        ),
    ),
)
