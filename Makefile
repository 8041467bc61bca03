# make demo         a report on the bundled model and its sample documents
# make test         set up and run the tests; ARGS="-m 'not slow'" runs the quick ones, in two minutes
# make app          the workbench, in a browser
# make lint         ruff and mypy
# make pretrained   the tests on real GPT-2 weights, from the hub or its cache; says what it skipped
# make peers        the tests beside TransformerLens (in an environment of its own)
# make bench        speed beside transformers, TransformerLens and nnsight (in an environment of its own)

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test app lint pretrained peers bench clean

demo: $(STAMP)
	@mkdir -p out
	@$(RUN)/cutaway report -o out/report.html

test: $(STAMP)
	$(RUN)/pytest $(ARGS)

app: $(STAMP)
	@$(RUN)/cutaway app $(ARGS)

lint: $(STAMP)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

pretrained: $(STAMP)
	HF_HUB_OFFLINE=$${HF_HUB_OFFLINE:-0} $(RUN)/pytest -m pretrained -rs $(ARGS)

peers: $(STAMP) .venv-peers/.installed
	$(RUN)/pytest -m peers -rs $(ARGS)

bench: .venv-peers/.installed
	.venv-peers/bin/python -m benchmarks $(ARGS)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --constraint constraints.txt torch
	$(RUN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv-peers/.installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --constraint constraints.txt torch
	.venv-peers/bin/pip install --quiet --constraint constraints.txt --editable . -r benchmarks/requirements.txt
	@touch $@

clean:
	rm -rf .venv .venv-peers out dist .mypy_cache .ruff_cache .pytest_cache
