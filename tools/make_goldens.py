#!/usr/bin/env python3
"""Writes tests/goldens: tiny random checkpoints and what transformers computes from them.

    make_goldens.py [--out tests/goldens] [--only NAME ...]

Needs torch and transformers 5. Every byte follows from this file, the two versions and the CPU: weights and
prompts come from seeded generators, one thread is used, and a seed is passed over (in order) when its greedy
tokens hang on a rounding error. The formats are described in tests/goldens/README.md.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import tempfile

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

GREEDY_TOKENS = 64
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
TOLERANCE = {"f32": "fp32", "bf16": "half", "f16": "half"}
# The least lead of the best logit over the second, over the largest magnitude of a logit. Half-precision
# engines round the keys, the values and the activations too, so their goldens leave them more room.
MIN_GAP = {"f32": 1e-3, "bf16": 1.2e-2, "f16": 1.2e-2}
MIN_DISTINCT = 16  # greedy tokens that differ: a model that repeats one token tests little
WEIGHT_SEEDS = 20
PROMPT_SEEDS = 3000


@dataclasses.dataclass
class Golden:
    name: str
    model_type: str
    prompts: list  # lengths, one sequence each
    config: dict  # what differs from BASE
    dtypes: tuple = ("f32",)
    spelling: int = 5  # of config.json: transformers 4 or 5
    rope_type_key: str = "rope_type"  # "type" is the oldest spelling
    top_level_original: bool = False  # original_max_position_embeddings beside the rope dict, as Phi-3 has it
    shard: str = ""  # max_shard_size
    generation_eos: object = None  # eos_token_id of generation_config.json; None: no such file
    features: tuple = ()  # beyond those that the config shows


BASE = dict(
    vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
    bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def rope(kind, theta=10000.0, **parameters):
    return {"rope_type": kind, "rope_theta": theta, **parameters}


GOLDENS = [
    Golden(
        "llama-default", "llama", [5, 17, 33],
        dict(num_key_value_heads=4, intermediate_size=128, tie_word_embeddings=False,
             rope_parameters=rope("default")),
        dtypes=("f32", "bf16", "f16"), features=("batch",),
    ),
    Golden(
        "llama-linear-bias", "llama", [23],
        dict(hidden_size=72, num_attention_heads=6, num_key_value_heads=3, head_dim=16, attention_bias=True,
             mlp_bias=True, intermediate_size=112, rms_norm_eps=1e-6,
             rope_parameters=rope("linear", factor=2.5)),
        spelling=4, rope_type_key="type",
    ),
    Golden(
        "llama-dynamic", "llama", [9, 40, 75],
        dict(max_position_embeddings=72, rope_parameters=rope("dynamic", factor=3.0)),
        spelling=4,
    ),
    Golden(
        "llama-llama3", "llama", [67],
        dict(num_attention_heads=8, num_key_value_heads=1, head_dim=16, vocab_size=300,
             max_position_embeddings=512, eos_token_id=[3, 7, 11],
             rope_parameters=rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                  original_max_position_embeddings=64)),
        spelling=4, generation_eos=[3, 13],
    ),
    Golden(
        "llama-yarn", "llama", [40],
        dict(num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=24,
             max_position_embeddings=128,
             rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=32)),
        spelling=4, shard="200KB",
    ),
    Golden(
        "mistral-window", "mistral", [70],
        dict(num_attention_heads=4, num_key_value_heads=1, head_dim=40, sliding_window=16, hidden_size=72,
             rope_parameters=rope("default", 1000000.0)),
        spelling=4, shard="150KB",
    ),
    Golden(
        "mistral-longrope", "mistral", [9, 40, 78],
        dict(sliding_window=None, max_position_embeddings=288, rope_parameters=rope(
            "longrope", factor=4.0, original_max_position_embeddings=72,
            short_factor=[1.0, 1.05, 1.1, 1.2, 1.3, 1.45, 1.6, 1.75],
            long_factor=[1.1, 1.4, 1.9, 2.6, 3.4, 4.5, 5.5, 6.0])),
    ),
    Golden(
        "qwen2-default", "qwen2", [19],
        dict(num_key_value_heads=1, use_sliding_window=False, sliding_window=16, max_window_layers=1,
             bos_token_id=None, rope_parameters=rope("default", 1000000.0)),
        dtypes=("f32", "bf16", "f16"), spelling=4, generation_eos=[2, 5],
    ),
    Golden(
        "qwen2-yarn-window", "qwen2", [45],
        dict(num_hidden_layers=3, vocab_size=257, tie_word_embeddings=False,
             use_sliding_window=True, sliding_window=24, max_window_layers=1, max_position_embeddings=160,
             rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=40, mscale=1.0,
                                  mscale_all_dim=0.4, truncate=False)),
        spelling=4,
    ),
    Golden(
        "qwen3-default", "qwen3", [12],
        dict(head_dim=32, intermediate_size=128, rms_norm_eps=1e-6, bos_token_id=None,
             rope_parameters=rope("default", 1000000.0)),
        dtypes=("f32", "bf16", "f16"), shard="120KB",
    ),
    Golden(
        "qwen3-yarn-window", "qwen3", [31],
        dict(num_attention_heads=2, num_key_value_heads=1, head_dim=80, attention_bias=True,
             use_sliding_window=True, sliding_window=12, rms_norm_eps=1e-3,
             layer_types=["sliding_attention", "full_attention"],
             rope_parameters=rope("yarn", 5000.0, factor=2.0, original_max_position_embeddings=128,
                                  beta_fast=8.0, beta_slow=2.0, attention_factor=1.25)),
    ),
    Golden(
        "qwen3-longrope", "qwen3", [14, 97],
        dict(head_dim=16, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
             rope_parameters=rope("longrope", 50000.0, original_max_position_embeddings=80,
                                  short_factor=[1.02, 1.1, 1.0, 1.25, 1.4, 1.3, 1.5, 1.9],
                                  long_factor=[1.3, 1.2, 1.8, 2.2, 3.0, 4.1, 4.0, 5.0])),
        spelling=4, top_level_original=True,
    ),
]  # fmt: skip


class RetrySeed(Exception):
    """The seed's greedy tokens are not robust, or dull."""


def make_model(golden, seed):
    """A model with random fp32 weights."""
    config = AutoConfig.for_model(golden.model_type, **json.loads(json.dumps(BASE | golden.config)))
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).float().eval()
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor, mean, std):
        tensor.copy_(mean + std * torch.randn(tensor.shape, generator=generator))

    for name, parameter in sorted(model.named_parameters()):
        if name.endswith("norm.weight"):
            normal(parameter, 1.0, 0.1)
        elif name.endswith(".bias"):
            normal(parameter, 0.0, 0.2)
        elif "embed_tokens" in name:
            normal(parameter, 0.0, 0.2)
        else:
            normal(parameter, 0.0, 1.2 * parameter.shape[1] ** -0.5)
    return model


def make_prompt(golden, index, seed):
    generator = torch.Generator().manual_seed(1_000_000 * (index + 1) + seed)
    low = 16  # the ids below are special tokens
    return torch.randint(low, golden_vocab(golden), (golden.prompts[index],), generator=generator).tolist()


def golden_vocab(golden):
    return (BASE | golden.config)["vocab_size"]


def eos_ids(golden):
    ids = set()
    for eos in ((BASE | golden.config)["eos_token_id"], golden.generation_eos):
        ids |= set(eos if isinstance(eos, list) else [] if eos is None else [eos])
    return ids


def fresh_rope(model):
    """transformers keeps the longest length seen in the module that makes the angles; forget it."""
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(model.config)


def forward(model, tokens, cache):
    return model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True).logits[0]


def greedy(model, prompt, min_gap, banned):
    """The prompt in one forward, then a token at a time. Returns tokens, gaps, logits of what was fed."""
    fresh_rope(model)
    cache = DynamicCache(config=model.config)
    rows = [forward(model, prompt, cache)]
    tokens, gaps = [], []
    for step in range(GREEDY_TOKENS):
        last = rows[-1][-1]
        best = last.topk(2)
        gap = float((best.values[0] - best.values[1]) / last.abs().max())
        token = int(best.indices[0])
        if gap < min_gap or token in banned:
            raise RetrySeed
        tokens.append(token)
        gaps.append(gap)
        if step + 1 < GREEDY_TOKENS:
            rows.append(forward(model, [token], cache))
    if len(set(tokens)) < MIN_DISTINCT:
        raise RetrySeed
    return tokens, gaps, torch.cat(rows)


def rope_regime(config, prompt_length):
    """Whether angles depend on how a sequence's tokens were split into forwards: see the README."""
    parameters = config.rope_parameters
    if parameters["rope_type"] == "dynamic":
        original = config.max_position_embeddings
    elif parameters["rope_type"] == "longrope":
        original = parameters["original_max_position_embeddings"]
    else:
        return "static"
    if prompt_length > original:
        return "long_prompt"
    return "static" if prompt_length + GREEDY_TOKENS - 1 <= original else "crossing"


def rel_l2(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def check_splits(model, prompt, tokens, logits):
    """The regime's promise: which other ways of splitting the sequence into forwards give the same logits."""
    sequence = prompt + tokens[:-1]
    regime = rope_regime(model.config, len(prompt))
    fresh_rope(model)
    whole = rel_l2(forward(model, sequence, DynamicCache(config=model.config)), logits)
    fresh_rope(model)
    cache = DynamicCache(config=model.config)
    single = rel_l2(torch.cat([forward(model, [token], cache) for token in sequence]), logits)
    same, different = 3e-6, 1e-4
    one_long_table = model.config.rope_parameters["rope_type"] == "longrope"  # however long the sequence gets
    expected = {
        "static": (True, True),
        "crossing": (False, True),
        "long_prompt": (one_long_table, False),
    }[regime]
    for name, found, equal in (("whole", whole, expected[0]), ("single", single, expected[1])):
        if (found > same) if equal else (found < different):
            raise RuntimeError(f"{regime}: splitting {name} gives rel L2 {found:.2e}, expected equal={equal}")
    return max(whole if expected[0] else 0.0, single if expected[1] else 0.0)


def frequencies(model, sequences):
    """inv_freq as transformers makes it, at each length that matters."""
    lengths = {min(len(s["prompt"]) for s in sequences)}
    for s in sequences:
        if s["rope_regime"] != "static":
            lengths |= {len(s["prompt"]), len(s["prompt"]) + 1, len(s["prompt"]) + GREEDY_TOKENS - 1}
    table = []
    for length in sorted(lengths):
        fresh_rope(model)
        rotary = model.model.rotary_emb
        rotary(torch.zeros(1, 1), torch.arange(length)[None])
        table.append({"length": length, "inv_freq": rotary.inv_freq.tolist()})
    return {"attention_scaling": float(model.model.rotary_emb.attention_scaling), "frequencies": table}


def check_generate(model, prompt, tokens):
    """transformers' own loop gives the same tokens."""
    fresh_rope(model)
    inputs = torch.tensor([prompt])
    found = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=GREEDY_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )
    if found[0].tolist() != prompt + tokens:
        raise RuntimeError("generate() does not give the greedy tokens")


def round_weights(model, dtype):
    for parameter in model.parameters():
        parameter.copy_(parameter.to(DTYPES[dtype]).float())
    return model


def robust_prompt(golden, index, models):
    """The first prompt whose greedy tokens are robust with each of the models; None if there is none."""
    gap = max(MIN_GAP[dtype] for dtype in golden.dtypes)
    for seed in range(PROMPT_SEEDS):
        prompt = make_prompt(golden, index, seed)
        try:
            for model in models:
                greedy(model, prompt, gap, eos_ids(golden))
            return prompt
        except RetrySeed:
            continue
    return None


def robust_seed(golden):
    """The first weights for which there are robust prompts, and those prompts."""
    for seed in range(WEIGHT_SEEDS):
        models = [round_weights(make_model(golden, seed), dtype) for dtype in golden.dtypes]
        prompts = []
        while len(prompts) < len(golden.prompts):
            prompt = robust_prompt(golden, len(prompts), models)
            if prompt is None:
                break
            prompts.append(prompt)
        else:
            return seed, prompts
    raise RuntimeError(f"{golden.name}: no robust weights")


def write_json(path, value):
    """One line per list of numbers or of strings."""

    def text(item, depth):
        pad = " " * depth
        if isinstance(item, dict):
            lines = [f"{pad} {json.dumps(k)}: {text(v, depth + 1)}" for k, v in sorted(item.items())]
            return "{\n" + ",\n".join(lines) + f"\n{pad}}}"
        if isinstance(item, list) and item and isinstance(item[0], dict):
            return "[\n" + ",\n".join(f"{pad} {text(v, depth + 1)}" for v in item) + f"\n{pad}]"
        return json.dumps(item)

    path.write_text(text(value, 0) + "\n")


def write_config(golden, directory):
    """Rewrites config.json in the spelling that the golden asks for."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    if golden.spelling == 4:
        parameters = config.pop("rope_parameters")
        config["rope_theta"] = parameters.pop("rope_theta")
        kind = parameters.pop("rope_type")
        if golden.top_level_original:
            config["original_max_position_embeddings"] = parameters.pop("original_max_position_embeddings")
        config["rope_scaling"] = None if kind == "default" else {golden.rope_type_key: kind, **parameters}
        config["torch_dtype"] = config.pop("dtype")
        config.pop("layer_types", None)
        config["transformers_version"] = "4.57.1"
        if "use_sliding_window" in golden.config:  # transformers 4 kept the number where it is not in use
            config["sliding_window"] = golden.config["sliding_window"]
    write_json(path, config)


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def save_checkpoint(golden, model, dtype, directory):
    """Writes weights and config.json, then respells config.json. Returns the model as loaded."""
    saved = model.to(DTYPES[dtype])
    saved.config.dtype = DTYPES[dtype]
    saved.save_pretrained(directory, max_shard_size=golden.shard or "1GB")
    generation = directory / "generation_config.json"
    generation.unlink(missing_ok=True)
    if golden.generation_eos is not None:
        write_json(generation, {"eos_token_id": golden.generation_eos})
    as_saved = load(directory)
    write_config(golden, directory)
    loaded = load(directory)
    probe = list(range(16, 16 + max(golden.prompts)))
    logits = [forward(m, probe, DynamicCache(config=m.config)) for m in (as_saved, loaded)]
    if not torch.equal(*logits):
        raise RuntimeError(f"{directory.name}: the respelled config.json does not load to the same logits")
    for file in directory.iterdir():
        file.chmod(0o644)
    if (directory / "model.safetensors.index.json").exists() != bool(golden.shard):
        raise RuntimeError(f"{directory.name}: sharded or not, against what was asked")
    return loaded


def features(golden, config, sequences):
    found = {golden.model_type, "rope_" + config.rope_parameters["rope_type"]}
    found |= {f"gqa_{config.num_attention_heads // config.num_key_value_heads}", f"config_v{golden.spelling}"}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found |= {f"head_dim_{head_dim}", f"layers_{config.num_hidden_layers}", *golden.features}
    found |= {"rope_" + s["rope_regime"] for s in sequences if s["rope_regime"] != "static"}
    found.add("tied" if config.tie_word_embeddings else "untied")
    flags = {
        "explicit_head_dim": head_dim * config.num_attention_heads != config.hidden_size,
        "qkv_bias": golden.model_type == "qwen2" or getattr(config, "attention_bias", False),
        "o_bias": getattr(config, "attention_bias", False),
        "mlp_bias": getattr(config, "mlp_bias", False),
        "qk_norm": golden.model_type == "qwen3",
        "sliding_window": getattr(config, "sliding_window", None) is not None,
        "mixed_windows": len(set(getattr(config, "layer_types", None) or [])) > 1,
        "sharded": bool(golden.shard),
        "generation_config": golden.generation_eos is not None,
        "top_level_original": golden.top_level_original,
        "long_prompt_over_64": any(len(s["prompt"]) > 64 for s in sequences),
    }
    return sorted(found | {name for name, held in flags.items() if held})


def write_golden(golden, seed, prompts, dtype, out):
    """One checkpoint with its reference; returns its manifest entry."""
    name = golden.name if dtype == "f32" else f"{golden.name}-{dtype}"
    directory = out / name
    model = save_checkpoint(golden, make_model(golden, seed), dtype, directory)
    sequences, noise = [], 0.0
    for index, prompt in enumerate(prompts):
        tokens, gaps, logits = greedy(model, prompt, MIN_GAP[dtype], eos_ids(golden))
        noise = max(noise, check_splits(model, prompt, tokens, logits))
        check_generate(model, prompt, tokens)
        positions = [*range(len(prompt) + 4), len(prompt) + GREEDY_TOKENS - 2]
        file = f"logits.{index}.f32"
        (directory / file).write_bytes(logits[positions].contiguous().numpy().astype("<f4").tobytes())
        sequences.append(
            {
                "prompt": prompt,
                "greedy": tokens,
                "sequence": prompt + tokens,
                "positions": positions,
                "logits_file": file,
                "logits_shape": [len(positions), golden_vocab(golden)],
                "min_gap": float(f"{min(gaps):.4g}"),
                "gaps": [float(f"{gap:.4g}") for gap in gaps],
                "rope_regime": rope_regime(model.config, len(prompt)),
                "prompt_rope_length": len(prompt),
            }
        )
    write_json(
        directory / "golden.json",
        {"name": name, "seed": seed, "rope": frequencies(model, sequences), "sequences": sequences},
    )
    distinct = [len(set(s["greedy"])) for s in sequences]
    gap = min(s["min_gap"] for s in sequences)
    print(f"{name}: seed {seed}, min gap {gap:.4f}, distinct {distinct}, split noise {noise:.1e}", flush=True)
    return {
        "name": name,
        "directory": name,
        "dtype": dtype,
        "tolerance": TOLERANCE[dtype],
        "features": features(golden, model.config, sequences),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=pathlib.Path, default=root / "tests" / "goldens")
    parser.add_argument("--only", nargs="*", help="names of goldens; the manifest is then left as it is")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    arguments.out.mkdir(parents=True, exist_ok=True)
    entries = []
    with tempfile.TemporaryDirectory(dir=arguments.out) as scratch:
        for golden in GOLDENS:
            if arguments.only and golden.name not in arguments.only:
                continue
            seed, prompts = robust_seed(golden)
            for dtype in golden.dtypes:
                entry = write_golden(golden, seed, prompts, dtype, pathlib.Path(scratch))
                target = arguments.out / entry["name"]
                shutil.rmtree(target, ignore_errors=True)
                shutil.move(pathlib.Path(scratch) / entry["name"], target)
                entries.append(entry)
    if not arguments.only:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        tolerances = {"fp32": {"rel_l2": 1e-5}, "half": {"rel_l2": 2e-2}}
        manifest = {"goldens": entries, "made_with": versions, "tolerances": tolerances}
        write_json(arguments.out / "manifest.json", manifest)


if __name__ == "__main__":
    main()
