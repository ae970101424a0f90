# repro: the whole loop; test; check: format, lint, types; ui: MLflow on http://127.0.0.1:5000; dashboard: Optuna on :8080
.PHONY: repro test check ui dashboard
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONUNBUFFERED := 1

repro: .venv/installed
	@.venv/bin/dvc repro
	@.venv/bin/python -m pipelines.track
	@cat report/table.md
	@echo 'With pictures, and what the columns mean: report/report.html. The runs in MLflow: make ui.'
	@echo 'To keep the way back to these results: git add dvc.lock && git commit. Then: kka register, kka predict FOLDER.'

test: .venv/installed
	@.venv/bin/python -m pytest

check: .venv/installed
	@.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy

ui: .venv/installed
	@.venv/bin/python -m pipelines.track ui

dashboard: .venv/installed
	@.venv/bin/optuna-dashboard $(CURDIR)/mlruns/optuna.journal --host 127.0.0.1

.venv/installed: pyproject.toml
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
