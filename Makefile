# `make demo` and `make test` do everything on a fresh machine; the rest is for developers.
# `make` owns .venv. With uv on the PATH it is used; without it plain pip works.

PYTHON ?= python3
# torch on a plain index is the CUDA build (several GB); the CPU build instead:
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

VENV := .venv
PY := $(VENV)/bin/python
UV := $(shell command -v uv 2>/dev/null)
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
INSTALL := $(if $(UV),$(UV) pip install --quiet --python $(PY),$(PIP))
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help demo test test-slow stress pod-sim bench ablations ablations-quick jhmdb-tinypose jhmdb-tinypose-sweep lint notebooks docs readme-check clean

help:
	@echo "make demo   install, build the embedded data, train, evaluate, show two tables"
	@echo "make test   install and run the test suite"
	@echo "make lint   format, types, dead code, import rules"
	@echo "make notebooks  run all notebooks; make docs  API pages in docs/api"
	@echo "make readme-check  run every command of README.md and CONTRIBUTING.md"
	@echo "make pod-sim [PROCESSES=4]  train the demo in several processes on this machine"
	@echo "make ablations-quick  the method's parts, 18 runs, half an hour; make ablations: overnight"
	@echo "make jhmdb-tinypose JHMDB=DIR TINYPOSE=FILE  does TDMI help on real video?"
	@echo "make jhmdb-tinypose-sweep ...  and one knob at a time, why not more"
	@echo "make bench  all benchmarks beside their peers; half an hour on a quiet machine"
	@echo "make stress  kill and resume a run 40 times; make test-slow  the long tests"
	@echo "make clean  remove what demo, notebooks and docs made"

$(PY):
	@echo "creating $(VENV)"
	@$(if $(UV),$(UV) venv --quiet --seed $(VENV),$(PYTHON) -m venv $(VENV))

$(VENV)/.run: requirements.txt | $(PY)
	@echo "installing requirements.txt"
	@$(INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.test: requirements.txt requirements-dev.txt requirements-dev-nodeps.txt requirements-export.txt | $(PY)
	@echo "installing requirements-dev.txt and requirements-export.txt"
	@$(INSTALL) -r requirements-dev.txt
	@$(INSTALL) --no-deps -r requirements-dev-nodeps.txt
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements-export.txt
	@touch $@ $(VENV)/.run

# The embedded data set; 95 short sequences, about half a minute.
data/demo/manifest.json: $(VENV)/.run
	@$(PY) -m data_pipelines.build --dataset=synthetic --output=data/demo

demo: data/demo/manifest.json
	@mkdir -p runs/demo
	$(PY) main.py --config=configs/demo.py:backbone --workdir=runs/demo/backbone
	$(PY) main.py --config=configs/demo.py:single_frame --workdir=runs/demo/single_frame
	$(PY) main.py --config=configs/demo.py:tdmi --workdir=runs/demo/tdmi
	@$(PY) -m tdpose_jax.tables runs/demo/tdmi runs/demo/single_frame \
		--output=runs/demo/results.json

test: $(VENV)/.test
	@$(PY) -m pytest -n 2 --dist=worksteal -m "not slow"

test-slow: $(VENV)/.test
	@$(PY) -m pytest -n 2 --dist=worksteal -m slow

stress: $(VENV)/.test
	@$(PY) -m tests.stress --kills=30 --terms=10

pod-sim: data/demo/manifest.json
	@$(PY) -m tdpose_jax.pod_sim --processes=$(or $(PROCESSES),2) -- \
		--config=configs/demo.py:backbone --workdir=runs/pod-sim $(ARGS)

# Rows x seeds of configs/ablations.py and their table; both go on where they were stopped.
data/demo_delta3/manifest.json: $(VENV)/.run
	@$(PY) -m data_pipelines.build --dataset=synthetic --output=data/demo_delta3 \
		--window_delta=3

runs/demo/backbone/results.json: | data/demo/manifest.json
	$(PY) main.py --config=configs/demo.py:backbone --workdir=runs/demo/backbone

LADDER := single_frame,tde_last,tde_all,tde_cascade,rdm,rdm_mi,tdmi
ALTERNATIVES := delta1@tdmi,delta3@tdmi,plain_conv@tdmi,heatmap_kl@tdmi,tdmi_st@tdmi
ABLATE := $(PY) -m tdpose_jax.ablations --config=configs/ablations.py --seeds=0,1,2

ablations-quick: runs/demo/backbone/results.json
	@$(ABLATE) --output=runs/ablations_quick --table=results/ablations_demo_quick.csv \
		--rows=single_frame,tde_last,tde_cascade,rdm,rdm_mi,tdmi \
		--set train.num_steps=120

ablations: runs/demo/backbone/results.json data/demo_delta3/manifest.json
	@$(ABLATE) --output=runs/ablations --table=results/ablations_demo.csv --keep_going \
		--rows=$(LADDER),$(ALTERNATIVES) \
		--set train.num_steps=1000

# TDMI on a real backbone and real video; JHMDB is the official folder, TINYPOSE the
# weights. Backbone features once (17 GB in data/jhmdb_features), 15 runs, two tables.
JHMDB ?= JHMDB
TINYPOSE ?= tinypose_256x192.npz
REAL_ROWS := single_frame,tde,tde_rdm,tdmi,tdmi_st

data/jhmdb/manifest.json: | $(VENV)/.run
	@$(PY) -m data_pipelines.build --dataset=jhmdb --source=$(JHMDB) --output=data/jhmdb

data/jhmdb_features/cache.json: | data/jhmdb/manifest.json
	@$(PY) main.py --mode=cache --config=configs/jhmdb_tinypose.py:tdmi \
		--workdir=runs/jhmdb_tinypose/cache \
		--config.model.backbone_weights=$(TINYPOSE) \
		--config.data.feature_cache=data/jhmdb_features

jhmdb-tinypose: data/jhmdb_features/cache.json
	@$(PY) -m tdpose_jax.ablations --config=configs/jhmdb_tinypose.py \
		--rows=single_frame,tde@single_frame,tde_rdm@single_frame,tdmi@single_frame,tdmi_st@single_frame \
		--seeds=0,1,2 --output=runs/jhmdb_tinypose --table=results/jhmdb_tinypose.csv \
		--metric=PCK@0.05.total --set data.feature_cache=data/jhmdb_features \
		--set model.backbone_weights=$(TINYPOSE) --set eval.num_pictures=0
	@$(PY) -m tdpose_jax.compare_clips --ground_truth=data/jhmdb/ground_truth/val \
		--runs=runs/jhmdb_tinypose --rows=$(REAL_ROWS) --medians=3,5 --oracles=3:1,5:1,9:1,5:3 \
		--table=results/jhmdb_tinypose_clips.csv
	@$(PY) -m tdpose_jax.clip_facts --ground_truth=data/jhmdb/ground_truth/val \
		--videos=$(JHMDB)/ReCompress_Videos --table=results/jhmdb_tinypose_facts.csv
	@$(PY) -m tdpose_jax.worst_clips --ground_truth=data/jhmdb/ground_truth/val \
		--videos=$(JHMDB)/ReCompress_Videos --runs=runs/jhmdb_tinypose --clips=6 \
		--rows=single_frame,tdmi,tdmi_st --output=runs/jhmdb_tinypose/worst_clips.png

# One knob at a time, one seed, cached features; then the span of the window without
# cache, and one clip learned by heart.
data/jhmdb_span4/manifest.json: | $(VENV)/.run
	@$(PY) -m data_pipelines.build --dataset=jhmdb --source=$(JHMDB) --window_delta=4 \
		--output=data/jhmdb_span4

ONE_CLIP := Rate_my_golf_swing__driver_and_9_iron_golf_f_cm_np1_ri_med_0
data/jhmdb_one/manifest.json: | $(VENV)/.run
	@mkdir -p data/jhmdb_one_source/ReCompress_Videos/golf \
		data/jhmdb_one_source/joint_positions/golf data/jhmdb_one_source/splits
	@cp $(JHMDB)/ReCompress_Videos/golf/$(ONE_CLIP).avi \
		data/jhmdb_one_source/ReCompress_Videos/golf/
	@cp -r $(JHMDB)/joint_positions/golf/$(ONE_CLIP) \
		data/jhmdb_one_source/joint_positions/golf/
	@echo "$(ONE_CLIP).avi 1" > data/jhmdb_one_source/splits/golf_test_split1.txt
	@$(PY) -m data_pipelines.build --dataset=jhmdb --source=data/jhmdb_one_source \
		--output=data/jhmdb_one

SWEEP := $(PY) -m tdpose_jax.ablations --config=configs/jhmdb_tinypose_sweep.py --seeds=0 \
	--metric=PCK@0.05.total --set model.backbone_weights=$(TINYPOSE) \
	--set eval.num_pictures=0
S := @single_frame

jhmdb-tinypose-sweep: data/jhmdb_features/cache.json data/jhmdb_span4/manifest.json data/jhmdb_one/manifest.json
	@$(SWEEP) --set data.feature_cache=data/jhmdb_features \
		--output=runs/jhmdb_tinypose_sweep --table=results/jhmdb_tinypose_sweep.csv \
		--rows=single_frame,tdmi$S,tdmi-last_stage$S,tdmi-plain_conv$S,tdmi-groups8$S,tdmi-mi_tenfold$S,tdmi-no_sufficiency$S,single_frame-batch4$S,tdmi-batch4,single_frame-double_rate$S,tdmi-double_rate,single_frame-half_rate$S,tdmi-half_rate,single_frame-long$S,tdmi-long,single_frame-longest$S,tdmi-longest,single_frame-large$S,tde_rdm-large,tdmi_st-large$S-large
	@$(SWEEP) --output=runs/jhmdb_tinypose_span --table=results/jhmdb_tinypose_span.csv \
		--rows=single_frame,tdmi$S,tdmi-span1$S,tdmi-span4$S
	@$(SWEEP) --output=runs/jhmdb_tinypose_by_heart \
		--table=results/jhmdb_tinypose_by_heart.csv \
		--rows=single_frame-by_heart,tdmi-by_heart

bench: $(VENV)/.test data/demo/manifest.json
	@$(PY) -m benchmarks

# Format, names and docstrings, types, dead code, who imports whom; silent if all is well.
lint: $(VENV)/.test
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m ruff check --quiet .
	@$(PY) -m pyrefly check --python-interpreter-path $(PY) --summary=none \
		--output-format=min-text 2>/dev/null
	@$(PY) -m vulture
	@$(PY) -m pytest -qq tests/test_import_rules.py -k "not without_tensorflow"

# From the first cell to the last, in a kernel of this .venv; what they showed stays in
# runs/notebook/executed.
notebooks: $(VENV)/.test
	@mkdir -p runs/notebook/executed
	@for file in notebooks/*.ipynb; do \
		start=$$(date +%s); \
		$(VENV)/bin/jupyter-execute --timeout=600 \
			--output=../runs/notebook/executed/{notebook_name} $$file || exit 1; \
		echo "$$file: $$(($$(date +%s) - start)) s"; \
	done

# API pages from the docstrings, in docs/api; a warning is an error.
docs: $(VENV)/.test
	@$(PY) -W error::UserWarning -m pdoc --math --docformat=google \
		--output-directory=docs/api tdpose_jax data_pipelines configs
	@echo "docs/api/index.html"

# Runs every command and code block of the README and of CONTRIBUTING.md, in copies.
readme-check: $(VENV)/.test
	@$(PY) -m tests.documents README.md CONTRIBUTING.md

clean:
	rm -rf runs/demo data/demo runs/notebook data/notebook docs/api
