# Every command does its own set-up. One profile and one feature set for all of them, so that
# dependencies are built once.

CARGO_FLAGS := --release --workspace --locked
FIXTURE := tests/fixtures/v32-bf16

# Where real texts are put for training, and where a training run lives.
DATA ?= target/data
TRAIN ?= target/train
TRAINER := target/release/sparsight-train

.PHONY: run test lint lint-shaders bench setup setup-test build data train-tiny

# The app where there is a display, a chat in the terminal where there is only that, else a story.
run: build
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ]; then .ci/with-runtime-dir target/release/sparsight; \
		elif [ -t 0 ] && [ -t 1 ]; then .ci/with-runtime-dir target/release/sparsight chat; \
		else .ci/with-runtime-dir target/release/sparsight generate "Once upon a time" --max-tokens 120; fi

build: setup
	cargo build $(CARGO_FLAGS)

test: setup-test lint
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

# Real texts for training, checked. Two of them have no public address: put them into a folder and
# name it in SPARSIGHT_DATA (models/README.md says what they are).
data: build
	@[ -n "$$SPARSIGHT_DATA" ] || models/train/fetch.sh $(DATA)/fetched
	$(TRAINER) texts --from "$${SPARSIGHT_DATA:-$(DATA)/fetched}" --to $(DATA)/texts

# The model of models/tiny, from texts to checkpoint, with the tokenizer that is there. Goes on where
# it was broken off.
train-tiny: data
	@echo "Some six hours on two CPU cores, 5 GB of memory. Ctrl-C saves and stops; the same"
	@echo "command goes on. State, log and curves are in $(TRAIN)."
	$(TRAINER) stages models/train/tiny.toml
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000 \
		$(TRAINER) run models/train/tiny.toml --texts $(DATA)/texts --out $(TRAIN)
	$(TRAINER) export models/train/tiny.toml --run $(TRAIN) --to models/tiny --force

setup:
	@.ci/setup

setup-test:
	@.ci/setup test
