# The two commands: `make demo` (the main job on the embedded host) and
# `make test`. Both set up what they need; the rest are their parts.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
SUITES := unit sim dom0 functional packaging
# test-unit and so on: `make dom0` alone is what packs the scripts for dom0.
SUITE_TARGETS := $(SUITES:%=test-%)
# Git gives the version; an unpacked archive, or a clone that belongs to somebody
# else, gets a fixed one.
VERSION := $(shell git rev-parse HEAD >/dev/null 2>&1 || echo PBR_VERSION=0.0.1.dev0)

.PHONY: help venv packages test $(SUITE_TARGETS) dom0 pep8 mypy docs cover config \
	demo demo-down figures bench soak integration clients clean

help:
	@echo "make demo          build servers with a real Nova on the embedded XAPI host"
	@echo "make demo KEEP=1   the same, and leave it running; make demo-down stops it"
	@echo "make test          all tests, style, types and documentation, from nothing"
	@echo "make dom0          tarball, RPM and supplemental pack of the scripts for dom0"
	@echo "make clients       other people's XenAPI clients on the embedded host"
	@echo "make venv          $(VENV) with the project, its command and its tools"
	@echo "make figures       the project's numbers"
	@echo "make bench         what the driver costs a host, how fast the embedded one is"
	@echo "make soak          ten minutes of trouble for the XAPI layer: MINUTES=10"
	@echo "make docs          the documentation, below doc/build/html"
	@echo "one part of the tests: make $(SUITE_TARGETS) pep8 mypy docs"

venv: $(INSTALLED)

$(INSTALLED): setup.py setup.cfg pyproject.toml requirements.txt constraints.txt \
		demo/requirements.txt
	@echo "Setting up $(VENV): OpenStack as released, the project, its tools"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt \
		pbr setuptools wheel
	@$(VERSION) $(BIN)/pip install -qq --disable-pip-version-check \
		--no-build-isolation -c constraints.txt \
		-r demo/requirements.txt -e '.[test,docs]'
	@touch $@

packages:
	@./system-packages.sh tests/packages.txt

test: packages venv
	@BIN=$(BIN) ./run-tests.sh $(SUITES)

$(SUITE_TARGETS): test-%: venv
	$(BIN)/python -m pytest -q tests/$*

dom0: venv
	@./system-packages.sh dom0_plugins/packaging/packages.txt
	@$(BIN)/xenapi-driver dom0 build --output dist/dom0

integration: venv
	@./system-packages.sh tests/packages.txt demo/packages.txt \
		tests/integration/packages.txt
	@mkdir -p build
	$(BIN)/python -m pytest -q --junit-xml=build/integration.xml tests/$@

clients: venv
	@./system-packages.sh tests/clients/packages.txt
	@# What can not be set up is skipped with its reason, or fails where it must not.
	-@$(BIN)/python -m tests.clients.environments
	@mkdir -p build
	$(BIN)/python -m pytest -q --junit-xml=build/clients.xml tests/$@

pep8: venv
	$(BIN)/ruff check .
	$(BIN)/flake8

mypy: venv
	$(BIN)/mypy

docs: venv
	$(BIN)/sphinx-build -q -W --keep-going -b html doc/source doc/build/html

cover: venv
	$(BIN)/coverage run -m pytest -q $(SUITES:%=tests/%)
	$(BIN)/coverage report

config: venv
	$(BIN)/oslo-config-generator --config-file etc/xenapi-driver-config-generator.conf

demo: venv
	@./system-packages.sh tests/packages.txt demo/packages.txt
	@$(BIN)/python -m demo run $(if $(KEEP),--keep)

demo-down: venv
	@$(BIN)/python -m demo down

figures: venv
	@$(BIN)/python -m bench.figures

bench: venv
	@$(VERSION) $(BIN)/pip install -qq --disable-pip-version-check \
		--no-build-isolation -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m bench $(ARGS)

MINUTES ?= 10
soak: venv
	$(BIN)/python -W ignore -m tests.troubles
	$(BIN)/python -W ignore -m tests.soak --minutes $(MINUTES)

clean:
	rm -rf $(VENV) build dist doc/build *.egg-info .mypy_cache .pytest_cache .ruff_cache
