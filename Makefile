# make demo      set everything up, then compress the embedded default model and measure it
# make test      set everything up, then run the tests
# make fuzz MINUTES=n  changes files of all kinds at random and reads them: nothing may crash, hang or run
# make headline  the same as demo with the 220 MB network (trains it once, about 40 minutes on 2 cores)

PYTHON ?= python3
VENV := .venv
PACKAGES := g++ binutils cmake python3-venv qemu-user g++-aarch64-linux-gnu dataset-fashion-mnist \
	adb openssh-client mksh toybox chromium

.PHONY: demo test fuzz headline setup packages lint clean
.DELETE_ON_ERROR:

demo: setup
	$(VENV)/bin/edgecomp build --target android-arm64 --method pq -o out/demo

test: setup
	$(VENV)/bin/pytest

MINUTES ?= 5
fuzz: setup
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/campaigns/mutate.py --minutes $(MINUTES)

headline: setup
	$(VENV)/bin/edgecomp build models/zfnet.py --target android-arm64 --method pq --budget 10MB --max-drop 1 -o out/zfnet

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

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lint: setup
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) out dist
