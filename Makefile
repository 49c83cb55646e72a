# Two commands do everything on a fresh Debian or Ubuntu: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
TEST_STAMP := $(VENV)/installed-test
# What some tests start besides our own programs; without root they are asked for, and those tests say why they skip.
TEST_PACKAGES := rsync systemd util-linux mount openssl strace gcc libc6-dev xfsprogs btrfs-progs

.PHONY: run test network files crash check clean packages chaos machines powerloss disks time million bench bench-peers

run: $(STAMP)
	@$(BIN)/chunkyd quickstart ./outbox

test: packages $(TEST_STAMP) check
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Real processes die at every checkpoint (chunkyd/checkpoints.py); `make test` has a sample of it. docs/failure-model.md
crash: $(TEST_STAMP)
	$(BIN)/python -m pytest tests/faults/test_checkpoints.py tests/faults/test_crash_points.py -m "long or not long"

# Every fault of the network and load, those too that need half a minute of silence.
network: packages $(TEST_STAMP)
	$(BIN)/python -m pytest $(wildcard tests/faults/test_network*.py) tests/faults/test_load.py -m "long or not long"

# The power goes a few hundred times.
powerloss: packages $(TEST_STAMP)
	POWER_LIVES=70 POWER_SEED=$${POWER_SEED:-$$(date +%s)} $(BIN)/python -m pytest tests/faults/test_power_loss.py -m "long or not long"

# Every trouble of a disk, under everything that is kept there; databases locked, damaged, and of every older schema.
disks: packages $(TEST_STAMP)
	$(BIN)/python -m pytest tests/faults/test_disks.py $(wildcard tests/faults/test_*databases.py) -m "long or not long"

# Files that change in every phase in every way, and folders that go away.
files: packages $(TEST_STAMP)
	$(BIN)/python -m pytest $(wildcard tests/faults/test_files*.py) tests/faults/test_folders.py -m "long or not long"

# Clocks that are wrong, and that are set.
time: packages $(TEST_STAMP)
	$(BIN)/python -m pytest tests/faults/test_time.py -m "long or not long"

# A job table with a million rows under the daemon; a hundred thousand files that come, and that go unsent.
million: $(TEST_STAMP)
	$(BIN)/python -m pytest tests/faults/test_million.py tests/faults/test_masses.py -s -m long

# Files, programs and network in trouble for so many minutes; the seed is printed, and plans the same again.
MINUTES ?= 10
SEED ?=
chaos: $(TEST_STAMP)
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# The state machines at length, from a new seed each time.
machines: $(TEST_STAMP)
	CHUNKYD_LONG_TESTS=1 $(BIN)/python -m pytest tests/chaos/test_two_ends.py tests/chaos/test_stack.py

# Beside the peers; writes docs/performance.md. On a machine that does nothing else. The programs are installed as a
# user installs them: an editable installation costs each start 15 ms more.
BENCH := benchmarks/.venv
bench: packages $(VENV)/bin/pip
	rm -rf build
	test -x $(BENCH)/bin/pip || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --disable-pip-version-check .
	$(BENCH)/bin/python -m benchmarks $(BENCHMARKS)

# Whom `make bench` compares with; one that is not there is said to be missing.
BENCH_PACKAGES := rsync nginx-light rclone syncthing curl iproute2 gcc libc6-dev
PEERS := benchmarks/.peers
bench-peers: packages
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(BENCH_PACKAGES) >/dev/null
	command -v npm >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nodejs npm >/dev/null
	$(PYTHON) -m venv $(PEERS)/tuspy
	$(PEERS)/tuspy/bin/pip install --quiet --disable-pip-version-check tuspy
	npm install --prefix $(PEERS) --no-audit --no-fund --silent @tus/server @tus/file-store tus-js-client

check: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(BENCH) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

packages:
	@missing=$$(dpkg-query -W -f '$${db:Status-Status} $${Package}\n' $(TEST_PACKAGES) 2>/dev/null | \
		awk '$$1 == "installed" {print $$2}' | sort > .packages; \
		printf '%s\n' $(TEST_PACKAGES) | sort | comm -23 - .packages | xargs; rm -f .packages); \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ]; then \
			{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; } >/dev/null; \
		else echo "some tests need: apt-get install $$missing"; fi; \
	fi

# A fresh Debian has Python without venv.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends python3-venv; } || \
		{ echo "Python has no venv here: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): setup.py $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $(STAMP)

$(TEST_STAMP): setup.py $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $(STAMP) $(TEST_STAMP)
