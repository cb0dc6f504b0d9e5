# `make` alone lists the targets. Scripts do the work; see the first lines of each.
.DEFAULT_GOAL := help
.PHONY: help run test test-mysql crash shuttle fuzz sim mutants bench bench-quick bench-durable instructions lint fmt deny image deploy-test chaos clean

DATABASE := $(if $(KV_TEST_MYSQL_URL),,scripts/with-mariadb)

IMAGE ?= overspill:$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

run: ## a whole cluster in one process, with SQLite, and the shell on it
	cargo run --release --bin kv

test: lint ## format, lints and all tests, against a MariaDB started for them (or KV_TEST_MYSQL_URL)
	cargo test --locked --features shuttle --lib interleavings
	$(DATABASE) cargo test --locked
	cargo test --locked --features otel --test otel

test-mysql: ## the tests that speak SQL, against MySQL and against a Galera cluster (Debian only; downloads MySQL once)
	scripts/with-mysql cargo test --locked --test tier --test it
	scripts/with-galera cargo test --locked --test tier --test it

crash: ## kill -9 of real processes at random under load: ROUNDS=200, and SEED=… to choose the random numbers
	CRASH_ROUNDS=$(or $(ROUNDS),200) CRASH_SEED=$(SEED) $(DATABASE) cargo test --locked --test crash -- --nocapture kills

shuttle: ## interleavings of locks, atomics and wake-ups under a scheduler: ROUNDS=50 times what `make test` tries
	ROUNDS=$(or $(ROUNDS),50) cargo test --locked --features shuttle --lib interleavings -- --nocapture

fuzz: ## the parser of Redis requests under libFuzzer, for SECONDS=60 (needs cargo-fuzz and a nightly toolchain)
	@command -v cargo-fuzz >/dev/null || { echo 'cargo-fuzz is missing: cargo install --locked cargo-fuzz'; exit 1; }
	cargo +nightly fuzz run resp_parse -- -max_total_time=$(or $(SECONDS),60)

sim: ## the simulator, for SECONDS=60 on fresh seeds; SEED=… replays one with its trace
	SIM_SECONDS=$(or $(SECONDS),60) cargo test --locked --profile sim --test sim fresh -- --nocapture

mutants: ## takes each rule out and shows that the simulator finds it; MUTANT=… only one
	cargo test --locked --profile sim --features mutants --test sim every_rule -- --nocapture

bench: ## docs/benchmarks.md: Overspill beside Redis, Valkey, memcached, twemproxy and MariaDB, all on this machine; ten minutes
	scripts/setup --peers
	cargo build --release --locked --bins --example bench
	$(DATABASE) target/release/examples/bench --write docs $(if $(FULL),--full)

bench-quick: ## the same with less of everything, printed: a minute
	scripts/setup --peers
	cargo build --release --locked --bins --example bench
	$(DATABASE) target/release/examples/bench --quick

bench-durable: ## of it, writes with a sync each beside redis-server with appendfsync always, and recovery, printed
	cargo build --release --locked --bins --example bench
	target/release/examples/bench durable

instructions: ## what the hot paths cost in instructions, in the release profile, beside tests/instructions/table.tsv; UPDATE=yes writes that
	scripts/setup valgrind
	$(if $(UPDATE),UPDATE=yes )cargo test --release --locked --test instructions

lint: ## what `make test` does first: finds or installs what is needed, checks the format, clippy, the lock files
	scripts/setup
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --lib --profile test --features shuttle --locked -- -D warnings
	cargo clippy --lib --bins --test otel --features otel --locked -- -D warnings
	cargo metadata --manifest-path fuzz/Cargo.toml --filter-platform "$$(rustc --print host-tuple)" --format-version 1 --locked >/dev/null # its lock file fits ours

fmt: ## formats the source
	cargo fmt

deny: ## licences, advisories and bans of the dependencies (needs cargo-deny)
	@command -v cargo-deny >/dev/null || { echo 'cargo-deny is missing: cargo install --locked cargo-deny'; exit 1; }
	cargo deny --locked check

image: ## the container image, by docker or podman: IMAGE=name:tag, and RUST_IMAGE=…, BASE_IMAGE=… to build from others
	@if docker info >/dev/null 2>&1; then engine='docker build'; else engine='podman build --format docker'; fi; \
	command -v $${engine%% *} >/dev/null || { echo 'neither a running docker nor podman is here'; exit 1; }; set -x; \
	$$engine -t $(IMAGE) $(foreach arg,RUST_IMAGE BASE_IMAGE,$(if $($(arg)),--build-arg $(arg)=$($(arg)))) .

deploy-test: ## the image and the pods of k8s/ for real, with podman: a session, and nodes replaced under load (Debian only, as root)
	scripts/setup podman buildah runc netavark aardvark-dns catatonit uidmap iptables debootstrap binutils
	cargo build --locked --bins
	scripts/deploy-test

chaos: ## partitions, kills and stalls under load, in network namespaces (as root): ROUNDS=12, SEED=… for the same choices
	scripts/setup iproute2 iptables
	cargo build --locked --bins
	scripts/chaos $(or $(ROUNDS),12) $(SEED)

clean: ## removes what was built
	cargo clean
