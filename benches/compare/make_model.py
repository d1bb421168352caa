#!/usr/bin/env python3
"""Makes the checkpoint that both engines run: 13.2 M random parameters in the shape of DeepSeek-V3.2.

Only the shape decides the speed, so the weights are noise and the tokenizer knows made-up words.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SEED = 20

CONFIG = {
    "architectures": ["DeepseekV32ForCausalLM"],
    "model_type": "deepseek_v32",
    "vocab_size": 4096,
    "hidden_size": 256,
    # Makes the whole 13.2 M.
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "q_lora_rank": 192,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
    "index_n_heads": 4,
    "index_head_dim": 64,
    "index_topk": 64,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 128,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_group": 4,
    "topk_group": 2,
    # The converter of llama.cpp insists on these two.
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
    "torch_dtype": "float32",
    "use_cache": True,
}

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"

# The three splits of DeepSeek's tokenizers, which llama.cpp knows by the name deepseek-v3.
SPLITS = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)


def shapes():
    """Every tensor of the checkpoint, with the names of Hugging Face."""
    c = CONFIG
    hidden, heads = c["hidden_size"], c["num_attention_heads"]
    nope, rope, value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    tensors = {
        "model.embed_tokens": (c["vocab_size"], hidden),
        "model.norm": (hidden,),
        "lm_head": (c["vocab_size"], hidden),
    }

    def feed_forward(prefix, width):
        tensors[f"{prefix}.gate_proj"] = (width, hidden)
        tensors[f"{prefix}.up_proj"] = (width, hidden)
        tensors[f"{prefix}.down_proj"] = (hidden, width)

    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        attention, indexer, mlp = f"{layer}.self_attn", f"{layer}.self_attn.indexer", f"{layer}.mlp"
        tensors |= {
            f"{layer}.input_layernorm": (hidden,),
            f"{layer}.post_attention_layernorm": (hidden,),
            f"{attention}.q_a_proj": (c["q_lora_rank"], hidden),
            f"{attention}.q_a_layernorm": (c["q_lora_rank"],),
            f"{attention}.q_b_proj": (heads * (nope + rope), c["q_lora_rank"]),
            f"{attention}.kv_a_proj_with_mqa": (c["kv_lora_rank"] + rope, hidden),
            f"{attention}.kv_a_layernorm": (c["kv_lora_rank"],),
            f"{attention}.kv_b_proj": (heads * (nope + value), c["kv_lora_rank"]),
            f"{attention}.o_proj": (hidden, heads * value),
            f"{indexer}.wq_b": (c["index_n_heads"] * c["index_head_dim"], c["q_lora_rank"]),
            f"{indexer}.wk": (c["index_head_dim"], hidden),
            f"{indexer}.k_norm": (c["index_head_dim"],),
            f"{indexer}.k_norm.bias": (c["index_head_dim"],),
            f"{indexer}.weights_proj": (c["index_n_heads"], hidden),
        }
        if i < c["first_k_dense_replace"]:
            feed_forward(mlp, c["intermediate_size"])
            continue
        tensors[f"{mlp}.gate"] = (c["n_routed_experts"], hidden)
        tensors[f"{mlp}.gate.e_score_correction_bias"] = (c["n_routed_experts"],)
        for expert in range(c["n_routed_experts"]):
            feed_forward(f"{mlp}.experts.{expert}", c["moe_intermediate_size"])
        feed_forward(f"{mlp}.shared_experts", c["moe_intermediate_size"] * c["n_shared_experts"])
    return {name if name.endswith("bias") else f"{name}.weight": shape for name, shape in tensors.items()}


def weights():
    random = np.random.default_rng(SEED)
    tensors = {}
    for name, shape in shapes().items():
        tensor = random.standard_normal(shape, dtype=np.float32)
        if name.endswith("bias"):
            tensor *= 0.05
        elif len(shape) == 1:
            tensor = 1 + 0.1 * tensor
        elif not name.endswith("embed_tokens.weight"):
            tensor /= math.sqrt(shape[1])
        tensors[name] = tensor.astype(np.float32)
    return tensors


def words(n=60_000):
    """Lines of made-up words, of few syllables so that there is something to merge."""
    random = np.random.default_rng(SEED)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "an", "el", "or")]
    for _ in range(n // 10):
        yield " ".join("".join(random.choice(syllables, random.integers(1, 5))) for _ in range(10)) + ".\n"


def tokenizer():
    bpe = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(split), "isolated") for split in SPLITS]
    bytes_of_pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_of_pieces])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in (BOS, EOS)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(words(), trainer)
    assert bpe.get_vocab_size() == CONFIG["vocab_size"], bpe.get_vocab_size()
    return bpe


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer().save(str(folder / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "add_bos_token": True,
        "model_max_length": CONFIG["max_position_embeddings"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    print(f"{sum(tensor.size for tensor in tensors.values()):,} parameters in {folder}")


if __name__ == "__main__":
    main()
