# Every task of the project. Each does the set-up it needs by itself.

.PHONY: setup demo test test-oracles lint bench fuzz proto clean
.NOTPARALLEL:

setup:          ## Debian packages, CRIU, .venv: idempotent
	@scripts/setup

demo: setup     ## two hosts on this machine, a container moves between them
	@.venv/bin/python -m demo

test: setup     ## lint, types, layers and every test
	@scripts/test

test-oracles: setup ## the runtime's conformance tests, asked of runc and of crun
	@RUNTIME=runc .venv/bin/python -m pytest tests/oci
	@RUNTIME=crun .venv/bin/python -m pytest tests/oci

lint: setup     ## ruff, mypy --strict, import-linter
	@scripts/lint

bench: setup    ## beside runc: results below bench/results
	@.venv/bin/python -m bench $(BENCH)

fuzz: setup     ## made-up configurations, a minute of them: FUZZ="--seconds 600"
	@scripts/fuzz $(FUZZ)

proto:          ## the link's messages, after a change of control.proto
	@scripts/generate-proto

clean:          ## what setup made; the Debian packages stay
	rm -rf .venv .prefix .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
