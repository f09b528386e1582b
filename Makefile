# make demo      set everything up, then compress the embedded default model and measure it
# make test      set everything up, then run all tests in two processes (WORKERS=4 make test: in four)
# make quick     set everything up, then what takes two minutes: lint, and the contracts that need no exported file
# make fuzz MINUTES=n  changes files of all kinds at random and reads them: nothing may crash, hang or run
# make picture   draw the pictures of the documentation again: a report, the architecture
# make headline  the same as demo with the 220 MB network (trains it once, about 40 minutes on 2 cores)

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
PACKAGES := g++ binutils cmake python3-venv qemu-user g++-aarch64-linux-gnu dataset-fashion-mnist \
	adb openssh-client mksh toybox chromium $(if $(shell command -v javac),,default-jdk-headless) aapt

# The contracts of methods, layers and models on tiny nets, and of the package; nothing is exported or measured.
QUICK := $(patsubst %,tests/test_%.py,architecture docs intervals kmeans layers listings load lookup methods package \
	packing permute pruning pruning_surgery)

.PHONY: demo test quick fuzz headline picture setup packages lint clean
.DELETE_ON_ERROR:

demo: setup
	$(VENV)/bin/edgecomp build --target android-arm64 --method pq -o out/demo

# One thread a process: the kernels of torch would fight over the cores that the processes share.
test: setup
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(WORKERS) --dist loadgroup

quick: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(WORKERS) --dist loadgroup -m "not slow" $(QUICK)

MINUTES ?= 5
fuzz: setup
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/campaigns/mutate.py --minutes $(MINUTES)

headline: setup
	$(VENV)/bin/edgecomp build models/zfnet.py --target android-arm64 --method pq --budget 10MB --max-drop 1 -o out/zfnet

picture: setup
	$(VENV)/bin/edgecomp build --budget 500kB --max-drop 1 -o out/picture
	chromium --headless --no-sandbox --hide-scrollbars --window-size=1000,690 \
		--screenshot=docs/images/report.png file://$(CURDIR)/out/picture/report.html
	$(VENV)/bin/python docs/architecture.py

setup: packages $(VENV)/.ready

# Debian packages that are missing are installed where that is possible, and named where it is not.
packages:
	@missing=$$(for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	test -z "$$missing" && exit 0; \
	if [ "$$(id -u)" = 0 ]; then sudo=; \
	elif command -v sudo >/dev/null; then sudo=sudo; \
	else echo "Missing Debian packages, and neither root nor sudo to install them: "$$missing >&2; exit 1; fi; \
	echo "Installing: "$$missing; \
	$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null

# The lock names all packages, so there is nothing to resolve; of their modules Python compiles those that it imports.
$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-deps --no-compile --requirement requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	$(VENV)/bin/edgecomp methods >/dev/null  # reads the methods once; listings come at once from now on
	touch $@

lint: setup
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) out dist
