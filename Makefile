# Every task of the project. Each does the set-up it needs by itself.

.PHONY: setup demo test test-oracles test-vm test-vagrant vagrant-demo lint bench fuzz proto clean
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

test-vm:        ## two real machines under QEMU: VM=all for the long ones too
	@scripts/setup --machines
	@scripts/build-box >/dev/null
	@VM=$(or $(VM),short) .venv/bin/python -m pytest tests/vm

vagrant-demo:   ## two machines by Vagrant, and the demo between them
	@cd vagrant && vagrant up
	@vagrant/demo

test-vagrant:   ## the same by libvirt without KVM, with a box built here
	@scripts/test-vagrant

lint: setup     ## ruff, mypy --strict, import-linter
	@scripts/lint

bench: setup    ## beside runc: results below bench/results
	@.venv/bin/python -m bench $(BENCH)

fuzz: setup     ## made-up configurations, a minute of them: FUZZ="--seconds 600"
	@scripts/fuzz $(FUZZ)

proto:          ## the link's messages, after a change of control.proto
	@scripts/generate-proto

clean:          ## what setup made; the Debian packages stay
	rm -rf .venv .prefix .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
