#!/usr/bin/env python3
"""Training speed of the tiny model: Sparsight's trainer and PyTorch with transformers, taking turns.

Both run the model of `models/train/tiny.config.json` without its MTP layer, which transformers leaves
out: f32, dense attention over 16 sequences of 256 tokens, next-token loss, AdamW with clipping, on so
many threads. Routes are balanced by bias in ours and by nothing in transformers.

DeepseekV32ForCausalLM cannot be dense, so `index_topk` is set to the length: its indexer is computed and
selects everything. `--architecture v3` runs DeepseekV3ForCausalLM instead, the same model without an
indexer, which is what dense pre-training computes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "models/train/tiny.config.json"
LENGTH, SEQUENCES, MICRO_BATCHES = 256, 16, 2
TOKENS = LENGTH * SEQUENCES

# Pages that a step gives back and takes again cost a tenth of the time; `make train-tiny` sets the same.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000"}

RECIPE = f"""
seed = 1
config = "config.json"
tokenizer = {json.dumps(str(REPOSITORY / "models/tiny/tokenizer.json"))}
init_std = 0.04

[optimizer]
beta_1 = 0.9
beta_2 = 0.95
epsilon = 1e-8
weight_decay = 0.1
clip = 1.0

[[stage]]
name = "speed"
kind = "pretrain"
steps = 1000000
length = {LENGTH}
sequences = {SEQUENCES // MICRO_BATCHES}
micro_batches = {MICRO_BATCHES}
learning_rate = 1e-3
final_learning_rate = 1e-3
bias_speed = 0.001
mixture = {{ story = 0.6, recall = 0.4 }}
"""


def config():
    return json.loads(CONFIG.read_text()) | {"num_nextn_predict_layers": 0}


def torch_seconds(options):
    """Seconds of each step, measured in this process."""
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    sizes = config() | {"index_topk": LENGTH}
    if options.architecture == "v3":
        sizes = {key: value for key, value in sizes.items() if not key.startswith("index_")}
        sizes |= {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]}
    sizes.pop("torch_dtype")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(sizes))
        made = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(
        made, dtype=torch.float32, attn_implementation=options.attention
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    import time

    seconds = []
    for step in range(options.steps + options.warmup):
        ids = torch.randint(3, sizes["vocab_size"], (SEQUENCES, LENGTH))
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        for part in ids.chunk(options.micro_batches):
            loss = model(part, labels=part, use_cache=False).loss / options.micro_batches
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step >= options.warmup:
            seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "torch": torch.__version__, "transformers": transformers.__version__}))


def measure_torch(options):
    command = [sys.executable, __file__, "--only-torch", "--steps", str(options.steps)]
    command += ["--warmup", str(options.warmup), "--threads", str(options.threads)]
    command += ["--attention", options.attention, "--architecture", options.architecture]
    command += ["--micro-batches", str(options.micro_batches)]
    env = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
    return json.loads(output.splitlines()[-1])


def measure_ours(options):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "config.json").write_text(json.dumps(config()))
        (folder / "recipe.toml").write_text(RECIPE)
        steps = options.steps + options.warmup
        command = [str(options.trainer), "run", str(folder / "recipe.toml"), "--out", str(folder / "run")]
        command += ["--steps", str(steps), "--threads", str(options.threads)]
        command += ["--save-every", "1000000", "--validate-every", "1000000"]
        env = {key: value for key, value in os.environ.items() if key != "SPARSIGHT_DATA"} | MALLOC
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
        lines = (folder / "run/log.jsonl").read_text().splitlines()
    speeds = [json.loads(line)["tokens_per_second"] for line in lines]
    return [TOKENS / speed for speed in speeds[options.warmup :]]


def row(name, seconds):
    median = statistics.median(seconds)
    spread = f"{TOKENS / max(seconds):.0f}–{TOKENS / min(seconds):.0f}"
    return f"| {name} | {TOKENS / median:.0f} | {spread} | {median:.2f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="measured steps of a turn")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them")
    parser.add_argument("--turns", type=int, default=2, help="how often each engine has its turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-batches", type=int, default=1, help="of PyTorch; ours takes 2 side by side")
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa")
    parser.add_argument("--architecture", choices=("v32", "v3"), default="v32")
    parser.add_argument("--trainer", type=Path, default=REPOSITORY / "target/release/sparsight-train")
    parser.add_argument("--only-torch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_torch:
        torch_seconds(options)
        return
    ours, theirs = [], []
    for _ in range(options.turns):
        ours += measure_ours(options)
        found = measure_torch(options)
        theirs += found["seconds"]
    print(f"{SEQUENCES} sequences of {LENGTH} tokens a step, f32, {options.threads} threads, no MTP\n")
    print("| trainer | tokens/s (median) | slowest–fastest | seconds a step |\n|---|---|---|---|")
    print(row("sparsight-train", ours))
    name = f"torch {found['torch']}, transformers {found['transformers']}"
    print(row(f"{name} ({options.architecture}, {options.attention})", theirs))


if __name__ == "__main__":
    main()
