# Panux: recipes become signed packages, packages become a system, and the system boots.
#
# What an image holds; world.conf keeps these, the command line overrides it:
#   SYSTEM    base, full, pc, desktop or router: what the image is for (full)
#   PACKAGES  packages besides those of SYSTEM
#   SERVICES  what it starts (those of SYSTEM)
#   HOST      its name (panux)
#   PASSWORD  root's; without one, root needs none on the console
#   SSH_KEY   the public key that root's ssh takes, or its file
#   REPO_URL  where its lpkg finds packages (this machine, from QEMU)
#   KERNEL    the package that has the kernel (that of SYSTEM)
#   SIZE      what it may take at most, as in 16M
#   BOARD     what its disk boots besides: rpi, with ARCH=aarch64
#   FILES     a directory of your own files, which are copied over it
#
# Variables, as in: make world O=/var/tmp/panux
#   PKG       the package, or recipe, that a target is for
#   ARCH      x86_64, aarch64, armv7, riscv64 or x86 (this machine's)
#   O         the directory in which everything is made (build)
#   PORT      the port here that is `make run`'s port 80; one above, ssh (8080)
#   FIRMWARE  efi, or a path: what `make run SYSTEM=pc` boots by (bios)
#   APPEND    more words for the kernel of `make run`
#   NETDEV    what its network is, as QEMU's -netdev has it (user)
#   DEV       the disk that `make flash` writes to, as in DEV=/dev/sdX
#   NAME      what `make new` and `make patch` write
#   URL       where the source for `make new` is
#   CONFIG    what `make menuconfig` runs: oldconfig asks by text (menuconfig)
#
# Variables that are rarely set:
#   CONF      the file with the settings of an image (world.conf)
#   SOURCES   the cache of sources, which several clones may share ($O/sources)
#   KEYS      the directory of the signing key (~/.config/panux)
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
PORT ?= 8080

# The systems: what each holds, starts and boots.
systems = base full pc desktop router
services = clock crond getty hostname mounts network ntpd root seed sysctl syslogd

# base: busybox, and the shell as init
base = basefs busybox initd
base_services = $(services)

# full: Python, the init daemon and lpkg as well
full = $(base) linit lpkg
full_services = $(base_services)

# pc: on a disk, with ssh, editors and what a laptop needs
pc = $(full) linux python-ssl ca-certificates e2fsprogs dosfstools dropbear opendoas \
	nano less htop iw wpa_supplicant
pc_services = $(services) grow keyboard mdev modules dropbear
pc_kernel = linux

# desktop: the pc, with windows: a terminal, an editor, a browser
desktop = $(pc) desktop
desktop_services = $(pc_services) weston
desktop_kernel = linux

# router: two ports, a firewall; addresses, names, ssh inside
router = $(full) dnsmasq iptables dropbear
router_services = $(services) firewall dropbear dnsmasq
router_kernel = linux

SYSTEM ?= full
KERNEL ?= $(or $($(SYSTEM)_kernel),linux-tiny)
SERVICES ?= $($(SYSTEM)_services)
HOST ?= panux
REPO_PORT ?= 8000
REPO_URL ?= http://10.0.2.2:$(REPO_PORT)
CONF ?= world.conf
-include $(wildcard $(CONF))
packages = $($(SYSTEM)) $(PACKAGES)
image = $(O)/$(ARCH)/image$(patsubst %,-%,$(filter-out full,$(SYSTEM)))
signature = $(O)/repo/$(ARCH)/index.json.minisig
export ARCH HOSTARCH O CONF SOURCES KEYS REPO_PORT PORT PKG MAKE NAME URL CONFIG
export SYSTEM KERNEL SERVICES HOST PASSWORD SSH_KEY REPO_URL SIZE BOARD FILES
export IMAGE_FOLDER = $(image)

ifeq ($(filter $(systems),$(SYSTEM)),)
$(error SYSTEM=$(SYSTEM) is none of: $(systems))
endif
ifneq ($(words x$(O)x x$(SOURCES)x),2)
$(error a blank is in O=$(O) or SOURCES=$(SOURCES), and make takes that for two names)
endif

# world/setup makes a virtual environment where the system's Python lacks what our tools import.
python = $(or $(wildcard $(O)/venv/bin/python3),$(PYTHON))
PKGGEN = $(python) -I world/pkggen
again = $(MAKE) -s --no-print-directory
# What the tests look at, whatever the settings are.
core = CONF=/dev/null SYSTEM=full PACKAGES= HOST=panux PASSWORD= SSH_KEY= SIZE= BOARD= FILES= \
	'SERVICES=$(full_services)' KERNEL=linux-tiny REPO_URL=http://10.0.2.2:8000
# Not empty for make -n, -q and -t, which run a line that begins with + all the same.
dry = $(strip $(foreach flag,n q t,$(findstring $(flag),$(firstword -$(MAKEFLAGS)))))
package = $${PKG:?name a package, as in: make $@ PKG=zlib}

# -j is for the builds; two targets that build would look at the same recipes.
.NOTPARALLEL:

##@ Use
.PHONY: help
help: ## list the targets and the variables
	@SYSTEMS="$(systems)" world/help

##@ Build
# The variable $1, where the command line gave it a value.
typed = $(if $(and $(filter command%,$(origin $1)),$($1)), $1=$($1))
# Build the packages $1, or all recipes; an image of them is to start the services $2. The shell
# looks for the virtual environment, which world/setup may just have made.
build = $(if $(dry),:) env SERVICES="$2" \
	PYTHON="$$(ls $(O)/venv/bin/python3 2>/dev/null || echo $(PYTHON))" world/packages $1

.PHONY: world
world: ## build what the image needs, sign it, make the image
	@PACKAGES="$(packages)" world/setup world
	@[ -e "$(CONF)" ] || world/conf
	+@$(if $(PKG),$(call build,$(PKG)),$(call build,$(packages) $(KERNEL),$(SERVICES)))
	$(if $(PKG),,+@$(again) image)
	$(if $(PKG),,@echo "next    make run$(call typed,ARCH)$(call typed,SYSTEM)$(call typed,BOARD)")

.PHONY: all
all: ## build every recipe, and say first how long that takes
	@world/setup world
	+@$(call build)

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
image: $(image)/rootfs.tar.gz ## assemble the image from the repository

$(image)/rootfs.tar.gz: $(signature) $(image)/settings world/image world/tree world/disk \
	$(wildcard world/$(SYSTEM)/etc/* world/$(SYSTEM)/etc/*/*)
	@PACKAGES="$(packages)" PYTHON="$(python)" world/image

# Newer than the image when one of them was given another value.
.PHONY: FORCE
$(image)/settings: FORCE
	@PACKAGES="$(packages)" world/settings $@

$(CONF):
	@world/conf

$(signature):
	@echo "there is no repository yet: make world" >&2; exit 1

.PHONY: sizes
sizes: ## list and draw what the packages of SYSTEM take
	@PACKAGES="$(packages)" $(python) -I world/sizes

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

.PHONY: reproduce
reproduce: ## build every package again, elsewhere, and compare the bytes
	@PYTHON="$(python)" world/reproduce

.PHONY: why
why: ## say what changed since PKG was built
	@$(PKGGEN) why recipes "$(package)"

##@ Run
# What is in a disk image is lost when it is made anew: here, for other settings alone.
.PHONY: run
run: ## boot the image in QEMU, its console in this terminal
	@PACKAGES="$(packages)" world/setup run
	+@$(again) image $(if $(wildcard $(image)/vmlinuz),-o $(signature))
	@world/qemu

.PHONY: flash
flash: ## write the image of SYSTEM=pc to the disk DEV, after asking
	@world/flash

.PHONY: serve
serve: ## offer the repository to devices on the network
	@PYTHON="$(python)" world/serve

.PHONY: run-test
run-test: core ## boot both images in QEMU, test them from their console
	@$(python) -m pytest $(pytest) -m "not long$(if $(filter x86_64,$(ARCH)),, and not bios)" \
		tests/test_world.py -k boot

##@ Test
pytest = -p no:cacheprovider -q

# The world that the tests look at, made in a run of its own: $(python) may be there only then.
.PHONY: core
core:
	@world/setup test
	+@$(again) dosfstools
	+@$(again) -j2 world $(core)
	+@$(again) image $(core) SYSTEM=base

.PHONY: test
test: core ## show that everything works, the core world included
	+@$(if $(dry),,world/engine) $(again) run-test-base $(beside)
	@PYTHON="$(python)" world/engine world/test

# For another ARCH, too.
.PHONY: run-test-base
run-test-base: ## boot the base of ARCH in QEMU, test it from its console
	@world/setup run
	+@$(again) -j2 world $(core) SYSTEM=base
	@$(python) -m pytest $(pytest) tests/test_world.py -k "test_boot_base or s62 and base"

.PHONY: run-test-pc
run-test-pc: ## boot the disk of ARCH in QEMU by EFI, test it from its console
	@PACKAGES="$(pc)" world/setup test
	+@$(again) world CONF=/dev/null SYSTEM=pc
	@$(python) -m pytest $(pytest) tests/test_world.py -k "boot and by_efi"

# `make test` boots the first one, in an O of its own; test-long all.
foreign = $(filter-out $(HOSTARCH),aarch64 armv7 riscv64 x86 x86_64)
beside = ARCH=$(firstword $(foreign)) O=$(O)/foreign SOURCES=$(SOURCES) PYTHON=$(python)
.PHONY: test-long
test-long: core ## build and check every recipe, and run what takes too long
	@world/setup long
	+@$(again) all
	+@$(foreach arch,$(foreign),$(again) run-test-base ARCH=$(arch) &&) :
	+@$(again) run-test ARCH=aarch64
	+@$(again) run-test-pc ARCH=aarch64
	@world/engine $(python) -m pytest $(pytest) -m long tests

SECONDS ?= 600
.PHONY: fuzz
fuzz: ## fuzz linitd and linitctl for SECONDS, from a SEED
	@world/setup test
	@$(python) tests/fuzz_linit.py --seconds $(SECONDS) --seed $(or $(SEED),1)

.PHONY: check
check: ## run the tests that boot and build nothing
	@world/setup test
	@$(python) -m pytest $(pytest) -m "not long" tests --ignore tests/test_world.py \
		--ignore tests/test_device.py

.PHONY: bench
bench: ## measure speed and memory, beside peers in the same run
	@world/setup test
	@$(python) tests/bench/bench_pkggen.py
	@$(python) tests/bench/bench_lpkg.py
	@$(python) tests/bench/bench_linit.py
	@$(python) tests/bench/bench_boot.py

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
		LIBDIR=$(PREFIX)/lib/panux SHAREDIR=$(PREFIX)/share "INTERPRETER=$(interpreter)" || exit; done
	@# pkggen runs both by these names.
	@install -m 644 lpkg.py pkggen.py "$(DESTDIR)$(PREFIX)/lib/panux"

##@ Clean
.PHONY: clean
clean: ## remove what was built; sources, engine and keys stay
	rm -rf $(O)/$(ARCH) $(O)/repo $(O)/foreign

.PHONY: distclean
distclean: ## remove everything but the keys
	rm -rf $(O)
