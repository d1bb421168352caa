#!/usr/bin/env python3
"""Makes a case for `sparsight verify`: a tiny random checkpoint and what transformers computes with it.

Everything is recorded from transformers' own modules while they run, so the numbers owe nothing to
Sparsight: hidden states, selections and routes by forward hooks, index scores and the gaps at the
boundaries by listening to the `topk` calls inside the indexer and the gate.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

# A wider gap than this is not decided by rounding; `sparsight verify` has the same bound.
DECIDED_BY_ROUNDING = 1e-5

COMMON = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 0,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "max_position_embeddings": 163840,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "use_cache": True,
}

# Sixteen heads: with few, ReLU makes many scores exactly 0, and ties decide the selection.
INDEXER = {"index_n_heads": 16, "index_head_dim": 32, "index_topk": 16}

ARCHITECTURES = {
    "deepseek_v32": COMMON | INDEXER | {"architectures": ["DeepseekV32ForCausalLM"]},
    "deepseek_v3": COMMON | {"architectures": ["DeepseekV3ForCausalLM"]},
    "deepseek_v2": COMMON
    | {
        "architectures": ["DeepseekV2ForCausalLM"],
        "q_lora_rank": None,
        "n_shared_experts": 2,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "scoring_func": "softmax",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "rope_scaling": COMMON["rope_scaling"] | {"mscale": 0.707, "mscale_all_dim": 0.707},
    },
    "glm_moe_dsa": COMMON
    | INDEXER
    | {
        "architectures": ["GlmMoeDsaForCausalLM"],
        "n_group": 1,
        "topk_group": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "rope_interleave": True,
        "indexer_rope_interleave": True,
        "index_topk_freq": 2,
    },
}


def configuration(arch, overrides):
    """config.json of the case; refuses what transformers would silently ignore."""
    config = ARCHITECTURES[arch] | {"model_type": arch} | overrides
    v2 = arch == "deepseek_v2"
    fixed = {
        "model_type": arch,
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": 0,
        "scoring_func": "softmax" if v2 else "sigmoid",
    }
    if v2:
        fixed["norm_topk_prob"] = False
    else:
        fixed["topk_method"] = "noaux_tc"
    if arch == "glm_moe_dsa":
        fixed["indexer_rope_interleave"] = True
    for key, value in fixed.items():
        if config[key] != value:
            raise SystemExit(f"{key}: found {config[key]!r}, expected {value!r}: transformers' {arch} has no other")
    return config


def draw_weights(model, seed):
    """Fills the model in place. Matrices keep the size of what they multiply; no norm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("e_score_correction_bias"):
            noise *= 0.05
        elif name.endswith("bias"):
            noise *= 0.1
        elif tensor.dim() == 1:
            noise = 1 + 0.1 * noise
        elif not name.endswith("embed_tokens.weight"):
            noise /= math.sqrt(tensor.shape[-1])
        tensor.copy_(noise)


def save_checkpoint(folder, config, seed, store):
    """Writes config.json and model.safetensors; transformers itself gives the tensors their names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    draw_weights(model, seed)
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        tensors = load_file(Path(saved) / "model.safetensors")
    if store == "bf16":
        # Norms and the gate's bias stay F32, as in the released checkpoints.
        tensors = {name: t.bfloat16() if t.dim() > 1 else t for name, t in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


class TopkCalls(TorchFunctionMode):
    """While entered, notes what every `topk` chose from and how many it chose."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.topk, torch.Tensor.topk):
            values = args[0] if args else kwargs["input"]
            self.calls.append((values, args[1] if len(args) > 1 else kwargs["k"]))
        return function(*args, **kwargs)


def boundary_gap(scores, k):
    """Distance between the k-th and the next of one row; infinite where all are chosen."""
    if len(scores) <= k:
        return math.inf
    best = scores.sort(descending=True).values
    return (best[k - 1] - best[k]).item()


class Recorder:
    """Hooks on every module whose result the case holds. One `take` for every forward pass."""

    def __init__(self, model):
        self.record = {}
        self.topk_gap = math.inf
        self.expert_gap = math.inf
        self.start = 0  # position of the first token of this pass
        self.selection = None  # of the last layer that owns an indexer
        for i, layer in enumerate(model.model.layers):
            indexer = getattr(layer.self_attn, "indexer", None)
            if indexer is not None:
                self.listen(indexer, i, self.on_indexer)
            if hasattr(layer.mlp, "gate"):
                self.listen(layer.mlp.gate, i, self.on_gate)
            layer.register_forward_hook(lambda _module, _args, output, i=i: self.on_layer(i, output))
        model.model.norm.register_forward_hook(
            lambda _module, _args, output: self.record.__setitem__("final_hidden", output[0])
        )

    def listen(self, module, i, handle):
        """Calls `handle(layer, output, topk calls)` after each forward of `module`."""
        active = []

        def before(_module, _args):
            active.append(TopkCalls())
            active[-1].__enter__()

        def after(_module, _args, output):
            calls = active.pop()
            calls.__exit__(None, None, None)
            handle(i, output, calls.calls)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    def on_indexer(self, i, output, calls):
        ((scores, k),) = calls
        scores, chosen = scores[0], output[0]
        n, context = scores.shape
        position = self.start + torch.arange(n)
        future = torch.arange(context) > position[:, None]
        self.record[f"layer{i}.index_scores"] = scores.masked_fill(future, -math.inf)
        # The first rows choose among fewer than k: what transformers adds from the future it masks later.
        chosen = chosen.masked_fill(chosen > position[:, None], context).sort().values
        self.selection = chosen.masked_fill(chosen == context, -1).int()
        for row, last in zip(scores, position):
            self.topk_gap = min(self.topk_gap, boundary_gap(row[: last + 1], k))

    def on_gate(self, i, output, calls):
        _logits, weights, experts = output
        order = weights.sort(descending=True, stable=True).indices
        self.record[f"layer{i}.expert_idx"] = experts.gather(1, order).int()
        self.record[f"layer{i}.expert_w"] = weights.gather(1, order)
        for values, k in calls:
            # Three dimensions: the two best of every group, which are only summed.
            if values.dim() == 2:
                for row in values:
                    self.expert_gap = min(self.expert_gap, boundary_gap(row, k))

    def on_layer(self, i, output):
        hidden = output[0] if isinstance(output, tuple) else output
        self.record[f"layer{i}.hidden"] = hidden[0]
        if self.selection is not None:
            # A layer without an indexer of its own attends to the selection of the one before.
            self.record[f"layer{i}.topk"] = self.selection

    def take(self):
        record, self.record = self.record, {}
        return record


def run(folder, prompt, steps):
    """What transformers computes from the saved files: the tensors of oracle.safetensors, and both gaps."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    recorder = Recorder(model)
    output = model(prompt[None], use_cache=True)
    oracle = {"input_ids": prompt, "logits": output.logits[0]} | recorder.take()
    ids, logits = [], []
    for step in range(steps):
        recorder.start = len(prompt) + step
        ids.append(output.logits[0, -1].argmax())
        output = model(ids[-1].view(1, 1), past_key_values=output.past_key_values, use_cache=True)
        logits.append(output.logits[0, -1])
        record = recorder.take()
        del record["final_hidden"]
        oracle |= {f"decode{step}.{name}": tensor for name, tensor in record.items()}
    if steps:
        oracle |= {"decode.ids": torch.stack(ids), "decode.logits": torch.stack(logits)}
    return oracle, recorder.topk_gap, recorder.expert_gap


def override(text):
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected KEY=JSON")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the case goes")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="deepseek_v32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", choices=("f32", "bf16"), default="bf16", help="type of the stored matrices")
    parser.add_argument("--prompt", type=int, default=64, metavar="N", help="tokens of the prompt")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="greedily decoded tokens")
    parser.add_argument("--set", type=override, action="append", default=[], metavar="KEY=JSON",
                        help="a field of config.json, any number of times")
    options = parser.parse_args()

    torch.set_grad_enabled(False)
    transformers.utils.logging.disable_progress_bar()
    config = configuration(options.arch, dict(options.set))
    save_checkpoint(options.folder, config, options.seed, options.store)
    generator = torch.Generator().manual_seed(options.seed + 1)
    prompt = torch.randint(2, config["vocab_size"], (options.prompt,), generator=generator)
    oracle, topk_gap, expert_gap = run(options.folder, prompt, options.steps)

    oracle = {name: tensor.clone().contiguous() for name, tensor in oracle.items()}
    save_file(oracle, options.folder / "oracle.safetensors")
    facts = {
        "arch": options.arch,
        "seed": options.seed,
        "store": options.store,
        "fp8_index": False,
        "fp8_kv": False,
        "min_topk_gap": topk_gap if topk_gap < math.inf else None,
        "min_expert_gap": expert_gap if expert_gap < math.inf else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (options.folder / "oracle.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    print(json.dumps(facts, indent=2, sort_keys=True))
    if min(topk_gap, expert_gap) < DECIDED_BY_ROUNDING:
        print("a boundary is decided by rounding, so sets will not be compared there: take another seed")


if __name__ == "__main__":
    main()
