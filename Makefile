# Every stage as a target; `make` alone prints them. Variables are given after the target:
#   make masks IMAGES=/data/imagenet/train CACHE=caches/imagenet-rbd ESTIMATOR=rbd WORKERS=16

PYTHON    ?= python3
WORKERS   ?=
ESTIMATOR ?= auto
SIDE      ?= 128
SHARD     ?= 4096
PRESET    ?= moco_v2
REFINE    ?= none
WEIGHTS   ?=
DEVICE    ?= cpu
BATCH     ?=
PRECISION ?= fp32
ARGS      ?=
LIST      ?=
PART      ?=
IMAGES    ?=
CACHE     ?=
RUN       ?=
DATA      ?=
RUNS      ?=
GPUS      ?=
MODEL     ?= c4
SCHEDULE  ?=
TO        ?= torchvision
DATASET   ?= embedded
SEEDS     ?= 3
OUT       ?=
DILO_SHARED ?= ../shared

VENV  := .venv
READY := $(VENV)/.ready
PY    := $(VENV)/bin/python
PEERS := .venv-peers
PEER_PACKAGES := nvidia-dali-cuda120==2.4.0 lightly==1.6.0

# a variable as the user wrote it, as one word of a shell: no name of a file is ever part of a target or a pattern
q = '$(subst ','\'',$(value $(1)))'
# several names: a blank separates them, and \ with a blank is one inside a name
blank := $(subst x,,x x)
several = $(foreach w,$(subst \$(blank),|blank|,$(value $(1))),'$(subst ','\'',$(subst |blank|,$(blank),$(w)))')
# $(call option,LIST,--list) where LIST was given; never expanded, a dollar is a dollar
option = $(if $(value $(1)),$(2) $(call q,$(1)))
# stop with one line, before anything is set up, where a variable that a target needs was not given
need = $(if $(filter $(1),$(MAKECMDGOALS)),$(foreach v,$(2),$(if $(value $(v)),,$(error $(1) needs $(v)=..., as in: $(3)))))
$(call need,masks,IMAGES CACHE,make masks IMAGES=/data/imagenet/train CACHE=caches/imagenet-rbd ESTIMATOR=rbd)
$(call need,pack,IMAGES OUT,make pack IMAGES=/data/imagenet/train OUT=/data/imagenet-256)
$(call need,pretrain,IMAGES RUN,make pretrain IMAGES=/data/imagenet/train CACHE=caches/imagenet-rbd RUN=runs/rbd)
$(call need,knn,RUN DATA,make knn RUN=runs/rbd DATA=/data/imagenet)
$(call need,linear,RUN DATA,make linear RUN=runs/rbd DATA=/data/imagenet)
$(call need,backgrounds,RUN DATA,make backgrounds RUN=runs/demo/dilo-rbd DATA=runs/demo/images)
$(call need,detection,$(if $(value WEIGHTS),,RUN) DATA,make detection RUN=runs/rbd DATA=/data/VOCdevkit GPUS=8)
$(call need,export,$(if $(value WEIGHTS),,RUN) OUT,make export RUN=runs/rbd TO=timm OUT=resnet50.safetensors)
$(call need,diagnose,RUNS DATA,make diagnose RUNS="runs/moco_v2 runs/moco_v2-rbd" DATA=/data/imagenet ARGS="--masks caches/val-rbd")
$(call need,report,RUNS,make report RUNS="runs/moco_v2 runs/moco_v2-rbd" OUT=report.html)

# a target with a plain name is a command, not a file; listed by hand, two branches that each add one always conflict
.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*/\1/p' $(MAKEFILE_LIST))
.DEFAULT_GOAL := help

help:  ## print this help
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv and install requirements.txt (the other targets do it by themselves)

# by content: a copied or checked-out project has new times, and perhaps a folder that cannot be written;
# of jobs that start at once one sets up, and the others wait
$(READY): requirements.txt
	@cmp -s requirements.txt $@ || $(if $(shell command -v flock 2> /dev/null),flock requirements.txt) \
		sh -c 'cmp -s requirements.txt $@ || $(MAKE) --no-print-directory .venv-packages'

.PHONY: .venv-packages
.venv-packages:
	@test -w . || { echo "error: $(CURDIR) cannot be written: let a user who may write there run make setup once"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is too old: Python 3.11 or newer is needed; use make PYTHON=python3.12 ..."; exit 2; }
	@echo "setting up $(VENV): about two minutes, 6 GB"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@cp requirements.txt $(READY)

# several processes, one a GPU
LAUNCH = $(if $(GPUS),-m train.launch --standalone --nproc-per-node $(GPUS))

demo: $(READY)  ## the whole job on the embedded data, under 5 minutes on 2 cores: runs/demo/
	exec $(PY) -m experiments.demo $(ARGS)

test: $(READY)  ## lint and the tests, without the slow ones
	exec $(PY) -m ruff check --no-cache .
	exec $(PY) -m ruff format --no-cache --check .
	exec $(PY) -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

test-all: $(READY)  ## every test, the slow ones too
	exec $(PY) -m ruff check --no-cache .
	exec $(PY) -m ruff format --no-cache --check .
	exec $(PY) -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(READY)  ## ruff alone
	exec $(PY) -m ruff check --no-cache .
	exec $(PY) -m ruff format --no-cache --check .

masks: $(READY)  ## stage 1: IMAGES=folder-or-tar CACHE=folder [ESTIMATOR=auto REFINE=none SIDE=128 WORKERS=n LIST=file PART=I/N; a network: WEIGHTS=file DEVICE=cuda BATCH=32 PRECISION=bf16]
	exec $(PY) -m preprocess $(call q,IMAGES) $(call q,CACHE) --estimator $(ESTIMATOR) --refine $(REFINE) --side $(SIDE) --shard-size $(SHARD) \
		$(call option,WORKERS,--workers) $(call option,LIST,--list) $(call option,PART,--part) \
		$(call option,WEIGHTS,--weights) $(if $(filter-out cpu,$(DEVICE)),--device $(DEVICE)) \
		$(call option,BATCH,--batch) $(if $(filter-out fp32,$(PRECISION)),--precision $(PRECISION)) $(ARGS)

pack: $(READY)  ## a million small files into a few large ones: IMAGES=folder-or-tar OUT=folder [WORKERS=n LIST=file ARGS="--side 256 --quality 90"]
	exec $(PY) -m data pack $(call q,IMAGES) $(call q,OUT) $(call option,WORKERS,--workers) $(call option,LIST,--list) $(ARGS)

pretrain: $(READY)  ## stage 2: IMAGES=folder RUN=folder [CACHE=folder PRESET=moco_v2 GPUS=8 ARGS="--epochs 100"]
	exec $(PY) $(LAUNCH) -m train $(call q,IMAGES) --masks $(if $(value CACHE),$(call q,CACHE),none) \
		--preset $(PRESET) --out $(call q,RUN) $(call option,WORKERS,--workers) $(call option,LIST,--list) $(ARGS)

# stage 3: a command does nothing where its result was made with the same options, weights and data
knn:  ## stage 3: RUN=folder DATA=folder with train/ and val/: nearest neighbours
linear:  ## stage 3: RUN=folder DATA=folder with train/ and val/: linear probe
backgrounds:  ## stage 3: RUN=folder DATA=folder of `python -m data synthetic`

knn linear backgrounds: $(READY)
	exec $(PY) -m evaluate $@ --unless-current --run $(call q,RUN) --data $(call q,DATA) $(call option,WORKERS,--workers) $(ARGS)

# a run, or third-party weights
SOURCE = $(if $(value WEIGHTS),$(call option,WEIGHTS,--weights),--run $(call q,RUN))

detection: $(READY)  ## stage 3: RUN=folder or WEIGHTS=file, DATA=folder [DATASET=voc|coco MODEL=c4|fpn|mask SCHEDULE=voc_24k|coco_1x GPUS=8 ARGS="--seeds 5"]
	exec $(PY) $(LAUNCH) -m evaluate detection $(SOURCE) \
		--data $(call q,DATA) $(if $(filter voc coco,$(DATASET)),--dataset $(DATASET)) --model $(MODEL) \
		$(call option,SCHEDULE,--schedule) $(call option,WORKERS,--workers) $(ARGS)

export: $(READY)  ## weights for other tools: RUN=folder or WEIGHTS=file, OUT=file [TO=torchvision|timm|detectron2]
	exec $(PY) -m evaluate export --to $(TO) $(SOURCE) --out $(call q,OUT) $(ARGS)

diagnose: $(READY)  ## does it look at the object? RUNS="folder folder" (a blank in a name: \ ) DATA=folder [ARGS="--masks CACHE --bank-masks CACHE"]: runs/diagnose.json
	exec $(PY) -m evaluate diagnose --runs $(call several,RUNS) --data $(call q,DATA) $(call option,WORKERS,--workers) $(ARGS)

report: $(READY)  ## every result of RUNS="a b c" on one page that loads nothing: [OUT=report.html]
	exec $(PY) -m evaluate report $(call several,RUNS) --out $(if $(value OUT),$(call q,OUT),report.html) $(ARGS)

bench: $(READY)  ## speed of every estimator against decoding: runs/bench/speed.json and docs/benchmarks.md
	exec $(PY) -m benchmarks.speed --images $(call q,DILO_SHARED)/data/imagenet_sample $(ARGS)

bench-saliency: $(READY)  ## accuracy of every estimator on ECSSD: runs/bench/saliency.json and docs/benchmarks.md
	exec $(PY) -m benchmarks.saliency --ecssd $(call q,DILO_SHARED)/data/ecssd $(ARGS)

bench-evaluate: $(READY)  ## feature extraction against the bare network: runs/bench/evaluate.json and docs/benchmarks.md, 15 minutes
	exec $(PY) -m benchmarks.evaluate --imagenet $(call q,DILO_SHARED)/data/imagenet_sample \
		--imagenette $(call q,DILO_SHARED)/data/imagenette_128/val $(ARGS)

bench-datapath: $(READY)  ## what backgrounds cost a sample, and reading from a pack: runs/bench/datapath.json
	exec $(PY) -m benchmarks.train --data $(call q,DILO_SHARED)/data --parts loader packs --json runs/bench/datapath.json $(ARGS)

bench-scale: $(READY)  ## how the batch stage grows with the number of images: runs/bench/scale.json and docs/benchmarks.md, 5 minutes
	exec $(PY) -m benchmarks.scale --sample $(call q,DILO_SHARED)/data/imagenet_sample $(ARGS)

# the peers are never in requirements.txt; they see the packages of .venv, torch above all
bench-peers: $(READY)  ## our loader beside DALI, lightly and torchvision (made in .venv-peers, 1 GB): runs/bench/peers.json and docs/benchmarks.md, 8 minutes
	@test -x $(PEERS)/bin/python || $(PY) -m venv $(PEERS)
	@for venv in $(VENV) $(PEERS); do $$venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; done | \
		{ read -r ours; read -r theirs; echo "$$ours" > "$$theirs/packages-of-the-project.pth"; }
	@for peer in $(PEER_PACKAGES); do $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check $$peer || \
		echo "note: $$peer cannot be installed here: its rows will say so"; done
	exec $(PY) -m benchmarks.peers --images $(call q,DILO_SHARED)/data/imagenet_sample --python $(PEERS)/bin/python $(ARGS)

records: $(READY)  ## seconds to results that anyone can repeat, what this machine can measure: benchmarks/records.json and docs/benchmarks.md [ARGS="--only rbd"]
	DILO_SHARED=$(call q,DILO_SHARED) exec $(PY) -m benchmarks.records $(ARGS)

bench-gpu: $(READY)  ## speed of the trainer on a GPU against its steps alone: runs/bench/gpu.json and docs/benchmarks.md, 6 minutes
	exec $(PY) -m benchmarks.gpu --images $(call q,DILO_SHARED)/data/imagenet_sample $(call option,WORKERS,--workers) $(ARGS)

bench-train: $(READY)  ## what copy-paste and colours cost the trainer, memory, packs: runs/bench/train.json and docs/benchmarks.md, 5 minutes
	exec $(PY) -m benchmarks.train --data $(call q,DILO_SHARED)/data $(ARGS)

notebooks: $(READY)  ## run every notebook on the demo's outputs, without a screen: runs/notebooks/*.html
	exec $(PY) -m notebooks $(ARGS)

lab: $(READY)  ## JupyterLab on the notebooks (installs it into .venv on first use) [ARGS="--no-browser --port 8888"]
	@$(PY) -c 'import jupyterlab' 2>/dev/null || $(PY) -m pip install --quiet --disable-pip-version-check jupyterlab==4.6.6
	exec $(PY) -m jupyterlab notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

experiments:  ## every table of the evidence [DATASET=embedded|imagenette|imagenette64[-simclr] (a GPU) SEEDS=3]; hours on 2 cores
e1:  ## table E1 [DATASET= SEEDS=]: estimators and controls, beside the scores of their masks
e2:  ## table E2: other backgrounds, with and without DiLo
e3:  ## table E3: what the foreground is pasted onto
e4:  ## table E4: how often views are pasted
e5:  ## table E5: side of the masks
e6:  ## table E6: other methods than SimCLR

experiments e1 e2 e3 e4 e5 e6: $(READY)
	DILO_SHARED=$(call q,DILO_SHARED) exec $(PY) -m experiments $(@:experiments=all) --data $(DATASET) --seeds $(SEEDS) $(ARGS)

evidence-gpu: $(READY)  ## what decides most, on a GPU within 12 minutes: the base, then E1's and E3's main rows at 64 px [ARGS="--minutes 12"]
	DILO_SHARED=$(call q,DILO_SHARED) exec $(PY) -m experiments.gpu $(ARGS)

clean:  ## remove what make made: .venv, .venv-peers, runs/demo, runs/bench, runs/notebooks and tool caches; your caches and runs stay
	rm -rf $(VENV) $(PEERS) runs/demo runs/bench runs/notebooks .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
