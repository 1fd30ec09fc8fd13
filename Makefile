# Panux: recipes become signed packages, packages become a system, and the system boots.
#
# Variables, as in: make world O=/var/tmp/panux
#   PKG       the package, or recipe, that a target is for
#   ARCH      x86_64, aarch64, armv7, riscv64 or x86 (this machine's)
#   SYSTEM    full, or base: the image without Python (full)
#   O         the directory in which everything is made (build)
#   PORT      the port here that is port 80 of `make run` (8080)
#   NAME      what `make new` and `make patch` write
#   URL       where the source for `make new` is
#   CONFIG    what `make menuconfig` runs: oldconfig asks by text (menuconfig)
#
# Variables that are rarely set:
#   SOURCES   the cache of sources, which several clones may share ($O/sources)
#   KEYS      the directory of the signing key (~/.config/panux)
#   KERNEL    the package that has the kernel (linux-tiny)
#   PACKAGES  what the image holds, with what they need (as SYSTEM has it)
#   SERVICES  what the image starts (clock crond getty hostname mounts network ...)
#   HOST      the image's host name (panux)
#   REPO_URL  where the image's lpkg finds packages (this machine, from QEMU)
#   REPO_PORT where `make serve` listens (8000)
#   ACCEL     how QEMU runs it: tcg, or kvm where that works (tcg)
#   RUN       what runs a build, when it isn't Docker (docs/world.md)
#   APT       `no`: install no Debian packages, only name them
#   SECONDS   how long `make fuzz` runs (600)
#   SEED      what its choices are made from (1)
#   PREFIX    where `make install` installs (/usr/local), below DESTDIR

HOSTARCH := $(shell uname -m | sed "s/^i.86/x86/;s/^armv7l/armv7/")
ARCH ?= $(HOSTARCH)
O ?= build
SOURCES ?= $(O)/sources
KEYS ?= $(HOME)/.config/panux
PYTHON ?= python3
KERNEL ?= linux-tiny
SYSTEM ?= full
base = basefs busybox initd
full = $(base) linit lpkg
PACKAGES ?= $($(SYSTEM))
SERVICES ?= clock crond getty hostname mounts network ntpd root seed sysctl syslogd
HOST ?= panux
REPO_PORT ?= 8000
REPO_URL ?= http://10.0.2.2:$(REPO_PORT)
PORT ?= 8080
export ARCH HOSTARCH O SOURCES KEYS KERNEL PACKAGES SERVICES HOST REPO_URL REPO_PORT PORT PKG MAKE
export NAME URL CONFIG
export IMAGE_FOLDER = $(image)

ifneq ($(words x$(O)x x$(SOURCES)x),2)
$(error a blank is in O=$(O) or SOURCES=$(SOURCES), and make takes that for two names)
endif

# world/setup makes a virtual environment where the system's Python lacks what our tools import.
python = $(or $(wildcard $(O)/venv/bin/python3),$(PYTHON))
PKGGEN = $(python) -I world/pkggen
image = $(O)/$(ARCH)/image$(if $(filter base,$(SYSTEM)),-base)
again = $(MAKE) -s --no-print-directory
# Not empty for make -n, -q and -t, which run a line that begins with + all the same.
dry = $(strip $(foreach flag,n q t,$(findstring $(flag),$(firstword -$(MAKEFLAGS)))))
package = $${PKG:?name a package, as in: make $@ PKG=zlib}

##@ Use
.PHONY: help
help: ## list the targets and the variables
	@world/help

##@ Build
# world/packages for the package $1. The shell looks for the virtual environment, which world/setup
# may just have made.
build = $(if $(dry),:) env PKG="$1" \
	PYTHON="$$(ls $(O)/venv/bin/python3 2>/dev/null || echo $(PYTHON))" world/packages

.PHONY: world
world: ## build what changed, sign the repository, make the image
	@world/setup world
	+@$(call build,$(PKG))
	$(if $(PKG),,+@$(again) image)

.PHONY: packages
packages: # what `world` does before the image
	+@$(call build,$(PKG))

recipes := $(notdir $(patsubst %/pkgen.yaml,%,$(wildcard recipes/*/*/pkgen.yaml)))
recipes := $(filter-out $(patsubst %:,%,$(filter %:,$(file <Makefile))),$(recipes))
.PHONY: $(recipes)
$(recipes):
	@world/setup world
	+@$(call build,$@)
.DEFAULT: ## build one package and what it needs, as in: make zlib
	@PYTHON="$(python)" world/help "$@"
	@world/setup world
	+@$(call build,$@)

.PHONY: image
image: $(image)/initramfs ## assemble vmlinuz and initramfs from the repository

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
.PHONY: new
new: ## write a recipe NAME for the source at URL
	@$(PKGGEN) new "$${NAME:?name the recipe, as in: make new NAME=less URL=https://...}" \
		"$${URL:?name the source, as in: make new NAME=less URL=https://...}"

.PHONY: hash
hash: ## fetch the sources of PKG, write their hashes into its recipe
	@$(PKGGEN) hash "$(package)"

.PHONY: lint
lint: ## find what is wrong in the recipe of PKG, or in all recipes
	@$(PKGGEN) lint $${PKG:+"$$PKG"}

.PHONY: fetch
fetch: ## fetch the sources of PKG, or of all recipes
	@$(PKGGEN) fetch "$${PKG:-recipes}"

.PHONY: outdated
outdated: ## list newer versions of the sources of PKG, or of all recipes
	@$(PKGGEN) outdated "$${PKG:-recipes}"

.PHONY: graph
graph: ## draw what needs what into $O/graph.svg
	@$(PKGGEN) graph recipes -o $(O)/graph.svg && echo "graph   $(O)/graph.svg"

.PHONY: shell
shell: ## build PKG again, and open a shell where that failed
	@PYTHON="$(python)" world/shell

.PHONY: patch
patch: ## make what was changed in that shell the patch NAME of PKG
	@PYTHON="$(python)" world/patch

.PHONY: menuconfig
menuconfig: ## change the configuration of PKG: busybox, linux-tiny
	@PYTHON="$(python)" world/menuconfig

.PHONY: check-recipe
check-recipe: ## lint PKG, build it twice, compare, list what comes out
	@PYTHON="$(python)" world/check-recipe

.PHONY: why
why: ## say what changed since PKG was built
	@$(PKGGEN) why recipes "$(package)"

##@ Run
.PHONY: run
run: ## boot the image in QEMU, its console in this terminal
	@world/setup run
	@world/qemu

.PHONY: serve
serve: ## offer the repository to devices on the network
	@$(python) -m http.server $(REPO_PORT) --directory $(O)/repo

.PHONY: run-test
run-test: ## boot both images in QEMU, test them from their console
	@world/setup test
	+@$(again) image SYSTEM=full "PACKAGES=$(full)"
	+@$(again) image SYSTEM=base "PACKAGES=$(base)"
	@$(python) -m pytest $(pytest) tests/test_world.py -k boot

##@ Test
pytest = -p no:cacheprovider -q

.PHONY: test
test: world ## show that everything works, the world included
	@world/setup test
	+@$(again) image SYSTEM=base "PACKAGES=$(base)"
	@world/engine $(python) -m pytest $(pytest) -m "not long" tests

.PHONY: test-long
test-long: world ## run what takes too long for that: twenty power cuts
	@world/setup long
	@world/engine $(python) -m pytest $(pytest) -m long tests

SECONDS ?= 600
.PHONY: fuzz
fuzz: ## fuzz linitd and linitctl for SECONDS, from a SEED
	@world/setup test
	@$(python) tests/fuzz_linit.py --seconds $(SECONDS) --seed $(or $(SEED),1)

.PHONY: check
check: ## run the unit tests, in a few minutes
	@world/setup test
	@$(python) -m pytest $(pytest) -m "not long" tests \
		--ignore tests/test_world.py --ignore tests/test_device.py

.PHONY: bench
bench: ## measure speed and memory, beside peers in the same run
	@world/setup test
	@$(python) tests/bench/bench_pkggen.py
	@$(python) tests/bench/bench_lpkg.py
	@$(python) tests/bench/bench_linit.py
	@$(if $(wildcard $(O)/$(ARCH)/image-base/initramfs),$(python) tests/bench/bench_boot.py, \
		echo "boots are not measured: there are no images; make run-test makes them")

.PHONY: oracle
oracle: ## write what a real Go 1.19 gives into the template cases
	@world/setup oracle
	@go run tests/oracle.go tests/data/templates/*.txt

##@ Install
DESTDIR ?=
PREFIX ?= /usr/local
tools = $(wildcard lpkg.py pkggen.py linitctl.py linitd.py)
# This machine's PyYAML and PyNaCl are found by `site`, so -S is not for here.
interpreter = $(shell $(PYTHON) -c 'import sys; print(sys.executable)') -I

.PHONY: install
install: ## install the tools below PREFIX, compiled
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
