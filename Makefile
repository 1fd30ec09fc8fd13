# Panux: recipes become signed packages, packages become a system, and the system boots.
#
# Variables, as in `make world O=/var/tmp/panux`; `make help` shows this list:
#   ARCH      what is built for: x86_64, aarch64, armv7, riscv64 or x86 (this machine)
#   O         the folder in which everything is made (build)
#   SOURCES   the cache of sources, which several clones may share ($O/sources)
#   KEYS      the folder of the signing key (~/.config/panux)
#   PKG       one package to build, with what it needs
#   KERNEL    the package that has the kernel (linux-tiny)
#   SYSTEM    full, or base: the image without Python (full)
#   PACKAGES  what the image holds, with what they need (basefs busybox initd, linit lpkg)
#   SERVICES  what the image starts (hostname network syslogd getty httpd)
#   HOST      the image's host name (panux)
#   REPO_URL  where the image's lpkg finds packages: this machine, seen from QEMU
#             (http://10.0.2.2:8000)
#   REPO_PORT where `make serve` listens (8000)
#   PORT      the port here that is port 80 of `make run` (8080)
#   ACCEL     how QEMU runs it: tcg, or kvm where that works (tcg)
#   RUN       what runs a build, when it isn't Docker (docs/world.md)
#   APT       `no`: install no Debian packages, only name them
#   PREFIX    where `make install` installs (/usr/local), below DESTDIR (none)

ARCH ?= $(shell uname -m | sed "s/^i.86/x86/;s/^armv7l/armv7/")
O ?= build
SOURCES ?= $(O)/sources
KEYS ?= $(HOME)/.config/panux
PYTHON ?= python3
KERNEL ?= linux-tiny
SYSTEM ?= full
base = basefs busybox initd
full = $(base) linit lpkg
PACKAGES ?= $($(SYSTEM))
SERVICES ?= hostname network syslogd getty httpd
HOST ?= panux
REPO_PORT ?= 8000
REPO_URL ?= http://10.0.2.2:$(REPO_PORT)
PORT ?= 8080
export ARCH O SOURCES KEYS KERNEL PACKAGES SERVICES HOST REPO_URL REPO_PORT PORT PKG MAKE
export IMAGE_FOLDER = $(image)

# world/setup makes a virtual environment where the system's Python lacks what our tools import.
python = $(or $(wildcard $(O)/venv/bin/python3),$(PYTHON))
image = $(O)/$(ARCH)/image$(if $(filter base,$(SYSTEM)),-base)
again = $(MAKE) -s --no-print-directory

##@ Use
.PHONY: help
help: ## list the targets and the variables
	@world/help

##@ Build
.PHONY: world
world: ## build all packages, sign the repository, make the image (PKG=name: only that package)
	@world/setup world
	+@$(again) packages
	$(if $(PKG),,+@$(again) image)

.PHONY: packages
packages: # after setup, since `python` is read anew
	+@PYTHON="$(python)" world/packages

.PHONY: image
image: $(image)/initramfs ## assemble vmlinuz and initramfs from the signed repository

$(image)/initramfs: $(O)/repo/$(ARCH)/index.json.minisig $(image)/settings world/image
	@PYTHON="$(python)" world/image

# Newer than the image when one of them was given another value.
.PHONY: FORCE
$(image)/settings: FORCE
	@mkdir -p $(@D) && echo '$(KERNEL) $(PACKAGES) $(SERVICES) $(HOST) $(REPO_URL)' >$@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(O)/repo/$(ARCH)/index.json.minisig:
	@echo "there is no repository yet: make world" >&2; exit 1

##@ Recipes
.PHONY: shell
shell: ## run the build of PKG again, and open a shell where it failed
	@PYTHON="$(python)" world/engine world/recipe shell

.PHONY: patch
patch: ## what was changed in that shell as NAME.patch beside the recipe of PKG
	@NAME="$(NAME)" world/recipe patch

.PHONY: menuconfig
menuconfig: ## change the configuration of PKG, as busybox or linux-tiny (CONFIG=oldconfig: by text)
	@PYTHON="$(python)" CONFIG="$(CONFIG)" world/engine world/recipe menuconfig

.PHONY: check-recipe
check-recipe: ## lint the recipe of PKG, build it twice and compare, list what comes out
	@PYTHON="$(python)" world/engine world/recipe check-recipe

.PHONY: why
why: ## what changed since PKG was built, and what has to be looked at because of that
	@$(python) pkggen.py why recipes "$${PKG:?name a package, as in: make why PKG=zlib}"

##@ Run
.PHONY: run
run: ## boot the image in QEMU, its console in this terminal; its port 80 is PORT here
	@world/setup run
	@world/qemu

.PHONY: serve
serve: ## offer the repository to devices on the network, at REPO_PORT
	@$(python) -m http.server $(REPO_PORT) --directory $(O)/repo

.PHONY: run-test
run-test: ## boot both images in QEMU and test them from their console
	@world/setup test
	+@$(again) image SYSTEM=full "PACKAGES=$(full)"
	+@$(again) image SYSTEM=base "PACKAGES=$(base)"
	@$(python) -m pytest $(pytest) tests/test_world.py -k boot

##@ Test
pytest = -p no:cacheprovider -q

.PHONY: test
test: world ## show that everything works, the core world included
	@world/setup test
	+@$(again) image SYSTEM=base "PACKAGES=$(base)"
	@world/engine $(python) -m pytest $(pytest) -m "not long" tests

.PHONY: test-long
test-long: world ## what takes too long for that: lpkg in QEMU, and twenty cuts of the power
	@world/setup long
	@world/engine $(python) -m pytest $(pytest) -m long tests

SECONDS ?= 600
.PHONY: fuzz
fuzz: ## fuzz linitd and linitctl for SECONDS (600), from a SEED (1)
	@world/setup test
	@$(python) tests/fuzz_linit.py --seconds $(SECONDS) --seed $(or $(SEED),1)

.PHONY: check
check: ## unit tests and lint, in a few minutes
	@world/setup test
	@$(python) -m pytest $(pytest) -m "not long" tests \
		--ignore tests/test_world.py --ignore tests/test_device.py

.PHONY: bench
bench: ## figures of speed and memory, beside peers in the same run
	@world/setup test
	@$(python) tests/bench/bench_pkggen.py
	@$(python) tests/bench/bench_lpkg.py
	@$(python) tests/bench/bench_linit.py
	@$(if $(wildcard $(O)/$(ARCH)/image-base/initramfs),$(python) tests/bench/bench_boot.py, \
		echo "boots are not measured: there are no images; make run-test makes them")

.PHONY: oracle
oracle: ## run the template cases through a real Go 1.19 and write what it gives into them
	@world/setup oracle
	@go run tests/oracle.go tests/data/templates/*.txt

##@ Install
DESTDIR ?=
PREFIX ?= /usr/local
tools = $(wildcard lpkg.py pkggen.py linitctl.py linitd.py)
# This machine's PyYAML and PyNaCl are found by `site`, so -S is not for here.
interpreter = $(shell $(PYTHON) -c 'import sys; print(sys.executable)') -I

.PHONY: install
install: ## install the tools below PREFIX, compiled for this machine's python3
	@for tool in $(tools); do world/install $$tool "$(DESTDIR)/" $(PYTHON) BINDIR=$(PREFIX)/bin \
		LIBDIR=$(PREFIX)/lib/panux "INTERPRETER=$(interpreter)" || exit; done
	@# pkggen runs both by these names.
	@install -m 644 lpkg.py pkggen.py "$(DESTDIR)$(PREFIX)/lib/panux"

##@ Clean
.PHONY: clean
clean: ## remove what was built; sources, engine and keys stay
	rm -rf $(O)/$(ARCH) $(O)/repo

.PHONY: distclean
distclean: ## remove everything but the keys
	rm -rf $(O)
