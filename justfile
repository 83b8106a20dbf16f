# The recipes of this project; `.ci/run` runs the same checks.

default: lint test

# Linters, types, spelling, import contracts
lint:
    uv run ruff check .
    uv run ruff format --check .
    uv run codespell
    uv run mypy
    uv run lint-imports

# Known holes in what a user installs, by the Python packaging advisories; asks pypi.org
audit:
    uv export --quiet --no-dev --no-emit-project --extra local --format requirements-txt \
        | uv tool run pip-audit --strict --disable-pip --require-hashes --requirement /dev/stdin

# All tests
test *arguments:
    uv run pytest -n auto {{ arguments }}

# Short runs of the benchmarks, the evals and the fuzzing that have recipes below
test-slow:
    uv run pytest -n auto -m slow

# What a formatter can mend
fix:
    uv run ruff check --fix .
    uv run ruff format .

# The pages of docs/ that say what the program is, from the program
docs:
    uv run python -m docs.generate.commands
    uv run python -m docs.generate.sql
    uv run python -m docs.generate.tools

# Accept the tools' schemas as they are now
snapshots:
    UPDATE_SNAPSHOTS=1 uv run pytest -q tests/server/test_snapshots.py

# A migration from the difference between the tables and the last one
migration name:
    rm -f .migration.sqlite
    uv run alembic -x file=.migration.sqlite upgrade head
    uv run alembic -x file=.migration.sqlite revision --autogenerate -m "{{ name }}"
    rm .migration.sqlite

# Random changes, faults and crashes against sync; the suite does a few of them
fuzz-sync examples="1000":
    FUZZ_EXAMPLES={{ examples }} uv run pytest -q tests/sync/test_property.py

# Ten processes renew one login at once, again and again; 100,000 reads of it beside a writer
fuzz-login rounds="100":
    FUZZ_EXAMPLES={{ rounds }} uv run pytest -q tests/conductor/test_shared_login.py
    FUZZ_EXAMPLES={{ rounds }} uv run pytest -q tests/conductor/test_credentials.py -k half_a_file

# SQL of a grammar that knows what hurts, against the sandbox; the suite does a hundred statements
fuzz-sql examples="10000":
    FUZZ_EXAMPLES={{ examples }} uv run pytest -q tests/inspection/test_fuzzing.py

# A first opening ends at each of its statements, and the next one makes it good
fuzz-openings:
    FUZZ_EXAMPLES=1 uv run pytest -q tests/store/test_migrate.py -k stop_at_any_statement

# Eight processes open one cache at once, again and again, or are killed; the suite does it twice
starts *arguments:
    uv run python -m benchmarks.reliability.starts {{ arguments }}

# The demo, as a new user would run it
demo:
    uv run --extra local dbos-mcp demo

# The session that the README shows, from a run of the demo: its text and docs/session.svg
session:
    uv run --extra local python -m docs.generate.session

# How fast, how large and how polite sync is, beside the design's targets; `--rows 1000000`
bench-sync *arguments:
    uv run python -m benchmarks.sync {{ arguments }}

# How fast, how large and how right answers are, beside SQLite's own time; `--only filters`
bench-query *arguments:
    uv run python -m benchmarks.query {{ arguments }}

# How that compares with dbos-mcp 0.8.0 in front of the same Conductor; needs the package index
bench-peer *arguments:
    uv run python -m benchmarks.peer {{ arguments }}

# How long a client waits for a server that it starts, beside a bare one; `--starts 20`
bench-start *arguments:
    uv run python -m benchmarks.start {{ arguments }}

# How fast, how large and how right post-mortems are, of a mirror with `--failures 60000`
bench-postmortem *arguments:
    uv run python -m benchmarks.postmortem {{ arguments }}

# How fast SQL is answered, refused and stopped, over the same mirror; `--all-bombs`
bench-sql *arguments:
    uv run python -m benchmarks.sql {{ arguments }}

# Ten incidents with planted causes: does an agent find them, and in how many calls? `--show`
evals *arguments:
    uv run python -m evals.run {{ arguments }}

# A thousand processes are killed at whatever they do; the suite does it twenty times
kills *arguments:
    uv run python -m benchmarks.reliability.kills {{ arguments }}

# A live application, four servers and the command line under faults and kills; `--minutes 60`
soak *arguments:
    uv run --extra local python -m benchmarks.reliability.soak {{ arguments }}

# SQLite's WAL-reset bug, provoked by our rule and without our lock; `--seconds 3600`
wal-reset *arguments:
    uv run python -m benchmarks.reliability.wal_reset {{ arguments }}

# Two hundred kills of the process that syncs: who takes over, and when; `--kills 200`
leaders *arguments:
    uv run python -m benchmarks.reliability.leaders {{ arguments }}

# Eight sessions that ask while one process syncs: nobody hears that the cache is busy; `--seconds`
contention *arguments:
    uv run python -m benchmarks.reliability.contention {{ arguments }}

# The power goes at any moment; the suite does it 100 times
power-cuts *arguments:
    uv run python -m benchmarks.reliability.power_cuts {{ arguments }}

# Each write and sync of the cache fails, and a whole disk is full; `--every 5` is quicker
file-faults *arguments:
    uv run python -m benchmarks.reliability.file_faults {{ arguments }}

# A state machine takes a hundred thousand steps, and finds planted bugs; the suite takes 400
planted-bugs *arguments:
    uv run python -m benchmarks.reliability.planted_bugs {{ arguments }}

# A thousand cache files damaged at random, looked through and restored; the suite does a few
rot *arguments:
    uv run python -m benchmarks.reliability.rot {{ arguments }}

# Two hundred clients of one server over HTTP, for a minute: errors, times, memory
http-load *arguments:
    uv run python -m benchmarks.reliability.http_load {{ arguments }}

# A thousand commands through a way that fails: what is done twice, and what is told; `--rounds`
commands-once *arguments:
    uv run python -m benchmarks.reliability.commands_once {{ arguments }}

# Ids that no path should hold, against the client's paths; the suite tries a few hundred
fuzz-ids examples="10000":
    FUZZ_EXAMPLES={{ examples }} uv run pytest -q tests/conductor/test_paths.py

# Whatever JSON a Conductor might say, against sync; the suite tries a few
fuzz-answers examples="1000":
    FUZZ_EXAMPLES={{ examples }} uv run pytest -q tests/sync/test_any_answer.py

# The wheel in a new venv, on machines with something wrong: it works, or says why; `--only disk`
clean-machine *arguments:
    uv run python -m benchmarks.reliability.clean_machine {{ arguments }}

# With the oldest of each thing that is asked for; `tests/store`
test-lowest *tests="tests/store tests/queries tests/sync tests/server tests/test_cli.py":
    uv venv --quiet --clear --python 3.11 .venv-lowest
    uv pip install --quiet --python .venv-lowest --resolution lowest-direct \
        --editable '.[local,patterns,inspect]' --group dev
    PATH="$PWD/.venv-lowest/bin:$PATH" python -m pytest -n auto {{ tests }}

# On another Python: `just test-python 3.14`
test-python version *tests:
    uv venv --quiet --clear --python {{ version }} .venv-{{ version }}
    uv pip install --quiet --python .venv-{{ version }} \
        --editable '.[local,patterns,inspect]' --group dev
    PATH="$PWD/.venv-{{ version }}/bin:$PATH" python -m pytest -n auto {{ tests }}

# A bundle for Claude Desktop, dist/dbos-mcp.mcpb; needs npm
mcpb:
    rm -rf build/mcpb
    uv build --quiet --wheel --out-dir build/mcpb
    cp LICENSE integrations/mcpb/* build/mcpb
    npx --yes @anthropic-ai/mcpb pack build/mcpb dist/dbos-mcp.mcpb

# The Claude Code plugin, looked at by Claude Code; needs npm
plugin:
    npx --yes @anthropic-ai/claude-code plugin validate --strict integrations/claude-code
