# make demo · make test · make lint · make bench; each installs what it needs into .venv first.
SHELL := /bin/bash
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Not compiled: most of what is installed is never imported, and the rest is compiled when it is.
# That has to be kept, or each process would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE
# Of conflicts constraints.txt has none: what is missing while two of these run is still to come.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-compile \
  --no-warn-conflicts -c constraints.txt
OUT := out

# Where a ROS 2 is sourced, its rclpy and messages are used; else they come as wheels.
ifeq ($(strip $(ROS_DISTRO)),)
VENV_OPTIONS :=
ROS_REQUIREMENTS := -r requirements/ros-wheels.txt
else
VENV_OPTIONS := --system-site-packages
ROS_REQUIREMENTS :=
endif

# An image is larger than Fast DDS's default shared-memory segment: without the profile most frames
# between two processes are lost (docs/troubleshooting.md). Never leave this host.
# Kilted and later read another variable, and warn of this one; the wheels are those of Jazzy.
ifneq ($(filter-out humble iron jazzy,$(ROS_DISTRO)),)
export FASTDDS_DEFAULT_PROFILES_FILE := $(CURDIR)/config/fastdds_large_images.xml
else
export FASTRTPS_DEFAULT_PROFILES_FILE := $(CURDIR)/config/fastdds_large_images.xml
endif
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST

.PHONY: help demo build test suite lint bench test-matrix sbom audit pictures setup setup-development clean
help:
	@echo 'make demo    sample drive -> player -> node -> recorder -> report, in $(OUT)/demo'
	@echo 'make build   colcon build, for ros2 run and ros2 launch'
	@echo 'make test    lint and the whole test suite'
	@echo 'make lint    ruff, mypy, import-linter, bandit'
	@echo 'make bench   ratios of engine, detector and node, in $(OUT)/bench; let nothing else run'
	@echo 'make test-matrix  the tests on the Pythons that are here, and on Jazzy and Kilted'
	@echo 'make sbom    what the environment is made of, in $(OUT)/sbom.json'
	@echo 'make audit   known holes of the pinned versions; asks pypi.org'
	@echo 'make setup   what the node and the replay need, into $(VENV); the others do it first'
	@echo 'make pictures  those of README and docs; MOTORWAY=a video of a motorway drive'
	@echo 'make clean   remove $(OUT) and $(VENV)'

demo: setup
	$(BIN)/python -m vq_anomaly_ros.replay.demo --out $(OUT)/demo

# Lint at low priority beside the suite, which now and then leaves a processor idle.
test:
	@$(MAKE) --no-print-directory --jobs=2 setup-development
	@$(MAKE) --no-print-directory --jobs=2 NICE='nice -n 19' lint suite

# Two processes: one of them often waits for the programs that it started. The jobs of this make
# are none of theirs.
suite: setup-development
	@unset MAKEFLAGS MFLAGS MAKELEVEL; $(BIN)/python -m pytest -n 2 --dist loadgroup

lint: setup-development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(NICE) $(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --recursive vq_anomaly_ros training launch --severity-level medium

bench: setup
	$(BIN)/python -m vq_anomaly_ros.trials.bench --out $(OUT)/bench

# MATRIX: options of the command, such as --python 3.12 --ros jazzy.
test-matrix: setup
	$(BIN)/python requirements/test_matrix.py --out $(OUT)/matrix $(MATRIX)

# Tools that the package does not need, in an environment of their own.
$(VENV)-tools/.installed: requirements/tools.txt | $(BIN)/python
	$(PYTHON) -m venv $(VENV)-tools
	$(VENV)-tools/bin/python -m pip --disable-pip-version-check --quiet install -r requirements/tools.txt
	@touch $@

sbom: setup $(VENV)-tools/.installed
	@mkdir -p $(OUT)
	$(VENV)-tools/bin/cyclonedx-py environment --of JSON -o $(OUT)/sbom.json $(BIN)/python

audit: $(VENV)-tools/.installed
	$(VENV)-tools/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

# The package as ROS finds it: `source install/setup.bash`, then ros2 run, ros2 launch.
build: $(VENV)/.build
	$(BIN)/python -m colcon build

setup: $(VENV)/.runtime
setup-development: $(VENV)/.development

$(BIN)/python:
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'make: $(PYTHON) is too old or lacks venv: apt install python3-venv (Python >= 3.11)'; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV_OPTIONS) $(VENV)

$(VENV)/.runtime: requirements/runtime.txt requirements/ros-wheels.txt constraints.txt | $(BIN)/python
	@echo 'installing what the node and the replay need into $(VENV) (about 0.8 GB, once)'
	$(PIP) -r requirements/runtime.txt $(ROS_REQUIREMENTS)
	@touch $@

$(VENV)/.build: requirements/build.txt $(VENV)/.runtime
	$(PIP) -r requirements/build.txt
	@touch $@

# Half of all bytes, unpacked beside the other half where make has two jobs; without what they
# depend on, so that two pips never write the same file.
$(VENV)/.large: requirements/large.txt requirements/tensorrt-gate.txt constraints.txt | $(BIN)/python
	@echo 'installing what training and tests need into $(VENV) (about 1.6 GB more, once)'
	$(PIP) --no-deps -r requirements/large.txt
	@touch $@

$(VENV)/.development: requirements/training.txt requirements/development.txt $(VENV)/.large $(VENV)/.build
	$(PIP) -r requirements/training.txt -r requirements/development.txt
	$(BIN)/python requirements/tensorrt_typings.py $(VENV)/typings
	@touch $@

# The pictures of the README; MOTORWAY is a video of a motorway drive.
pictures: demo
	$(BIN)/python -m vq_anomaly_ros.replay.still $(OUT)/demo/drive docs/pictures/sample_drive.jpg --frame 46
	$(BIN)/python -m training.atlas --model street --sample-drive --patch 96 --nearest 3 --out $(OUT)/atlas
	cp $(OUT)/atlas/atlas.jpg docs/pictures/codebook.jpg
	$(BIN)/python -m vq_anomaly_ros.replay.images_to_bag $(MOTORWAY) $(OUT)/motorway --rate 25 --overwrite
	$(BIN)/python -m vq_anomaly_ros.replay.still $(OUT)/motorway docs/pictures/motorway.jpg --frame 120

clean:
	rm -rf $(OUT) $(VENV) $(VENV)-tools build install log
