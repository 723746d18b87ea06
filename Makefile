# Everything runs inside .venv, which `make setup` builds from git, make and Python >= 3.11. Nothing needs to be activated.

BIN := .venv/bin
STAMP := .venv/.stamp
PYTHONS := $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3

OUTER_PATH := $(PATH)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
unexport PYTHONPATH PYTHONHOME

# The stamp holds the place that .venv was built for. A .venv that was moved or lost its Python is built anew.
ifneq ($(shell $(BIN)/python -c '' 2>/dev/null && cat $(STAMP) 2>/dev/null),$(CURDIR))
$(shell rm -f $(STAMP))
endif

.PHONY: help setup repro baselines sweep test lab app study docs export clean-notebooks lock

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | awk -F'\t' '{ printf "make %-16s %s\n", $$1, $$2 }'

setup: $(STAMP) ## build .venv from requirements.lock (re-runs only when the lock or the metadata change)

# Small networks keep one core busy better than two, so methods train, and tests run, side by side: DVC runs one stage at a time, but two
# of its processes may share a pipeline. JOBS=1 gives each training the whole machine.
JOBS := 2
THREADS := $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$(( n > $(JOBS) ? n / $(JOBS) : 1 )))

# Stages that may run beside one another, a line for those that follow each other: as processes of this machine, or, with CLUSTER=ray or
# ray://HOST:PORT, on a cluster whose machines all see this folder (nbs/scale.ipynb); GPUS=1 gives each a GPU there.
GPUS := 0
BESIDE = $(if $(CLUSTER),xargs $(BIN)/animrepro stages --on $(CLUSTER) --gpus $(GPUS),OMP_NUM_THREADS=$(THREADS) xargs -P $(JOBS) -I STAGES sh -c '$(BIN)/dvc --wait-for-lock repro --single-item STAGES')

# The stages train and evaluate (with `_baselines`: those of the other systems), several methods side by side.
define TRAIN
@$(BIN)/dvc stage list --name-only | sed -n 's/^train$(1)@\(.*\)/train$(1)@\1 evaluate$(1)@\1/p' | $(BESIDE)
endef
# The small networks that measure landmarks and identity, and (for face-vid2vid) tell the head's pose.
define MEASURE
@$(BIN)/dvc repro data
@printf '%s\n' landmarks identity $(1) | $(BESIDE)
endef
# Tables and figures read whatever was scored, so they are made without asking for the stages above them.
define JUDGE
@$(BIN)/dvc repro baseline
@$(BIN)/dvc repro --single-item tables figures
@$(BIN)/animrepro claims
endef

repro: $(STAMP) ## run the pipeline for the three papers' methods and FOMM, as far as anything changed, and judge every claim
	@$(BIN)/animrepro methods
	$(call MEASURE)
	$(call TRAIN)
	$(JUDGE)

baselines: $(STAMP) ## the same, and the other four systems: MRAA, face-vid2vid, Monkey-Net, X2Face
	@$(BIN)/animrepro methods
	$(call MEASURE,pose)
	$(call TRAIN)
	$(call TRAIN,_baselines)
	$(JUDGE)

sweep: $(STAMP) ## run the ablations (nbs/ablations) and draw their figures; needs nothing of make repro
	$(call MEASURE)
	@$(BIN)/dvc stage list --name-only nbs/ablations/dvc.yaml | $(BESIDE)
	@$(BIN)/dvc repro nbs/ablations/dvc.yaml
	@$(BIN)/animrepro figures --ablations

test: $(STAMP) ## run the notebooks and the usual checks (the long ones: pytest -m "campaign or cluster or paper")
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/pytest -n $(JOBS) --dist worksteal --durations=5

# Options go through, as in `make lab LAB="--port 9000"`. Jupyter refuses root unless told, and large uploads unless allowed.
ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
UPLOADS := tornado_settings="{'websocket_max_message_size': 2000000000}"

# Its root is the repository, so that notebooks show figures of the record; it opens at the map.
lab: $(STAMP) ## open the notebooks in JupyterLab; LAB="--port 9000" passes options on
	@$(BIN)/jupyter-lab --notebook-dir=. --LabApp.default_url=/lab/tree/nbs/index.ipynb --config=.ci/jupyter_server_config.py $(ROOT) --ServerApp.$(UPLOADS) $(LAB)

app: $(STAMP) ## open the page that animates pictures; APP="--port 9000 --no-browser" passes options on
	@$(BIN)/voila nbs/apps/animate.ipynb --Voila.$(UPLOADS) $(APP)

study: $(STAMP) ## serve the blind comparison of videos and collect votes; STUDY="--Voila.ip=0.0.0.0" lets other machines in
	@$(BIN)/voila nbs/apps/study.ipynb $(STUDY)

docs: $(STAMP) ## write the site into _docs/site: front page, map, notebooks, public names, record
	@test -x _docs/.venv/bin/mkdocs || { $(BIN)/uv venv --quiet --clear _docs/.venv && $(BIN)/uv pip install --quiet --python _docs/.venv/bin/python -r .ci/docs.txt; }
	@NO_MKDOCS_2_WARNING=1 _docs/.venv/bin/python .ci/docs

export: $(STAMP) ## write animrepro/ from the notebooks
	@$(BIN)/nbdev_export

clean-notebooks: $(STAMP) ## strip execution traces from the notebooks, and all outputs from the ablations
	@find nbs/ablations -name '*.ipynb' -not -path '*/.*' -exec $(BIN)/jupyter-nbconvert --clear-output --inplace --log-level=WARN {} +
	@$(BIN)/nbdev_clean

lock: $(STAMP) ## resolve requirements.in into requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate requirements.in -o requirements.lock

# The stamp goes first and comes back last: after an interrupted set-up there is none, and the next call starts afresh.
# Downloads are in the cache of uv by then, so that costs little.
$(STAMP): requirements.lock settings.ini setup.py pyproject.toml
	@test -e $@ || { export PATH="$(OUTER_PATH)"; \
	  for python in $(PYTHONS); do \
	    "$$python" -c 'import os, sys, venv, ensurepip; assert sys.version_info >= (3, 11) and sys.prefix != os.path.realpath(".venv")' 2>/dev/null && break; python=; \
	  done; \
	  test -n "$$python" || { echo "no Python >= 3.11 with venv and ensurepip found; install one (on Debian also python3-venv) or name it: make PYTHON=/path/to/python" >&2; exit 1; }; \
	  echo "building .venv with $$("$$python" -c 'import sys; print(sys.executable, sys.version.split()[0])')"; \
	  "$$python" -m venv --clear .venv && $(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"; }
	@rm -f $@
	@$(BIN)/uv pip sync --compile-bytecode --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@git config --local --get-all include.path 2>/dev/null | grep -qxF ../.gitconfig || git config --local --add include.path ../.gitconfig 2>/dev/null || true
	@echo "$(CURDIR)" > $@
