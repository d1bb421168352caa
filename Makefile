# Every command does its own set-up. One profile and one feature set for all of them, so that
# dependencies are built once.

CARGO_FLAGS := --release --workspace --locked
FIXTURE := tests/fixtures/v32-bf16

.PHONY: run test lint lint-shaders bench setup build

run: build
	@echo "Sixteen tokens of the tiny random checkpoint $(FIXTURE), ids in, ids out:"
	@.ci/with-runtime-dir target/release/sparsight generate --model $(FIXTURE) --ids 5,9,3 \
		--max-tokens 16 --greedy

build: setup
	cargo build $(CARGO_FLAGS)

test: setup lint
	@.ci/with-runtime-dir sh -c 'if cargo nextest --version >/dev/null 2>&1; \
		then cargo nextest run $(CARGO_FLAGS) --no-fail-fast; \
		else cargo test $(CARGO_FLAGS) --no-fail-fast --lib --bins --tests; fi'
	cargo test $(CARGO_FLAGS) --doc

lint: setup
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

# A second WGSL compiler over every kernel at every setting: Tint, through the npm package `webgpu`.
lint-shaders:
	@[ -d tests/tint/node_modules/webgpu ] || npm ci --prefix tests/tint --ignore-scripts
	cargo run --release --locked --manifest-path shaders/Cargo.toml --target-dir target/shaders --example write_shaders target/wgsl
	node tests/tint/lint.mjs target/wgsl

bench: build
	cargo bench --workspace --locked --bench context --bench memory --bench kernels
	.ci/with-runtime-dir cargo bench --workspace --locked --bench gpu
	.ci/with-runtime-dir target/release/sparsight bench --model $(FIXTURE) --prompt 64 --generate 32 --depths 0,256

setup:
	@.ci/setup
