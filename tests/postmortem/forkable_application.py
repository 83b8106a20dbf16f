"""A real DBOS application whose workflows fail; started again with `mended`, they would not.

It says `ready` once they have ended. Then, for each id that it reads, it waits for the end of that
workflow and says its status.
"""

from dbos import DBOS, SetWorkflowID

from tests.postmortem.served import MENDED, serve, status_of


@DBOS.step()
def load() -> str:
    return "an order"


@DBOS.step()
def format_total() -> str:
    return "170.00" if MENDED else "170,00"


@DBOS.step()
def charge(total: str) -> float:
    return float(total)


@DBOS.workflow()
def order() -> float:
    load()
    return charge(format_total())


@DBOS.workflow()
def called() -> float:
    load()
    return order()


@DBOS.workflow()
def enqueued() -> float:
    handle = DBOS.start_workflow(order)
    load()
    return handle.get_result()


@DBOS.workflow()
def named() -> float:
    load()
    with SetWorkflowID("a-child-of-its-own-name"):
        handle = DBOS.start_workflow(order)
    return handle.get_result()


def run() -> None:
    for function in (order, called, enqueued, named):
        with SetWorkflowID(function.__name__):
            status_of(DBOS.start_workflow(function))


if __name__ == "__main__":
    serve(run)
