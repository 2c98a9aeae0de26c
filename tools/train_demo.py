#!/usr/bin/env python3
"""Trains models/demo: a small byte-level Llama whose answers a reader can check by eye.

    python3 tools/train_demo.py                      # writes models/demo, prints held-out accuracy
    python3 tools/train_demo.py --out /tmp/other     # the same, elsewhere
    python3 tools/train_demo.py --check              # only measures what models/demo holds

Needs torch and transformers 5; CPU only, about 21 minutes on two cores. A token is a byte, and newline (byte
10) ends an answer. All text is made here: a prompt is one of six kinds of question and ends with '=';
answer_to() knows the right answer. A tenth of all questions, chosen by a hash of the question's canonical
form, is never trained on; accuracy is measured on those alone.
"""

import argparse
import hashlib
import json
import math
import random
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

MODEL_DIR = Path(__file__).resolve().parent.parent / "models" / "demo"
NEWLINE = 10
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MAX_POSITIONS = 256
BATCH_TOKENS = 4096
MAX_ANSWER = 48  # the longest answer is 39 bytes ("count 100 to 109=")

# Words that the README and the demo may ask for: kept out of training in both directions.
DEMO_WORDS = (
    "rondo stressed desserts drawer reward parts strap diaper live evil star rats gateman deliver reviled "
    "step pets token kernel graph cuda decode engine theme music sonata lager regal noon level piano"
).split()

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


# ---- the questions -----------------------------------------------------------------------------------------


def in_words(n):
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + ("-" + ONES[n % 10] if n % 10 else "")
    return ONES[n // 100] + " hundred" + (" " + in_words(n % 100) if n % 100 else "")


def kind_of(prompt):
    if prompt[0].isdigit():
        return "add" if "+" in prompt else "subtract"
    return prompt.split(" ", 1)[0]


def operands(prompt):
    """What the question is about: a word, or a list of numbers in the order they were asked."""
    kind, body = kind_of(prompt), prompt[:-1]
    if kind == "reverse":
        return body.split(" ")[1]
    if kind == "add":
        return [int(n) for n in body.split("+")]
    if kind == "subtract":
        return [int(n) for n in body.split("-")]
    return [int(n) for n in body.split(" ") if n.isdigit()]


def answer_to(prompt):
    kind, of = kind_of(prompt), operands(prompt)
    if kind == "add":
        return str(of[0] + of[1])
    if kind == "subtract":
        return str(of[0] - of[1])
    if kind == "reverse":
        return of[::-1]
    if kind == "sort":
        return " ".join(map(str, sorted(of)))
    if kind == "say":
        return in_words(of[0])
    if kind == "count":
        return " ".join(map(str, range(of[0], of[1] + 1)))
    raise ValueError(f"no such kind of question: {prompt!r}")


def held_out(prompt):
    """True for the tenth never trained on. Questions that give each other away share one canonical form."""
    kind, of = kind_of(prompt), operands(prompt)
    if kind == "reverse":
        if of in DEMO_WORDS or of[::-1] in DEMO_WORDS:
            return True
        canonical = min(of, of[::-1])
    elif kind in ("add", "sort"):
        canonical = sorted(of)
    else:
        canonical = of
    if kind == "say" and of[0] < 20:
        return False  # these words cannot be made from other numbers' words
    digest = hashlib.blake2b(f"{kind} {canonical}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % 10 == 0


def random_word(rng):
    length = rng.randint(2, 10)
    if rng.random() < 0.3:  # pronounceable
        return "".join(rng.choice("aeiou" if i % 2 else "bcdfghklmnprstvw") for i in range(length))
    # Few distinct letters make many repeats: reversing must go by place, not by looking a letter up.
    return "".join(rng.choices(rng.sample(LETTERS, rng.randint(3, 26)), k=length))


def random_prompt(rng, kind):
    if kind == "add":
        return f"{rng.randint(0, 99)}+{rng.randint(0, 99)}="
    if kind == "subtract":
        a, b = rng.randint(0, 99), rng.randint(0, 99)
        return f"{max(a, b)}-{min(a, b)}="
    if kind == "reverse":
        return f"reverse {random_word(rng)}="
    if kind == "sort":
        return f"sort {' '.join(rng.choices('0123456789', k=rng.randint(2, 7)))}="
    if kind == "say":
        return f"say {rng.randint(0, 99) if rng.random() < 0.2 else rng.randint(0, 999)}="
    first = rng.randint(0, 100)
    return f"count {first} to {first + rng.randint(1, 9)}="


# Share of the training lines; subtraction and reversal are learned last.
KINDS = {"add": 0.2, "subtract": 0.22, "reverse": 0.26, "sort": 0.12, "say": 0.1, "count": 0.1}


def training_line(rng):
    kind = rng.choices(list(KINDS), weights=KINDS.values())[0]
    while True:
        prompt = random_prompt(rng, kind)
        if not held_out(prompt):
            return prompt, answer_to(prompt) + "\n"


def held_out_prompts(rng, per_kind):
    """Distinct held-out prompts, per_kind of each kind; demo words come first among the reversals."""
    prompts = []
    for kind in KINDS:
        chosen = dict.fromkeys(f"reverse {word}=" for word in DEMO_WORDS) if kind == "reverse" else {}
        for _ in range(200 * per_kind):  # a kind may have fewer than per_kind questions to hold out
            if len(chosen) >= per_kind:
                break
            prompt = random_prompt(rng, kind)
            if held_out(prompt):
                chosen[prompt] = None
        prompts += list(chosen)[:per_kind]
    return prompts


# ---- batches -----------------------------------------------------------------------------------------------


def row_of(rng, length):
    """Whole lines, as many as fit, filled up to length: bytes, and the weight of each as a target.

    The prompts' weight is small: enough for text that runs on past the newline to ask more questions, too
    little to cost accuracy.
    """
    tokens, weights = [], []
    while True:
        prompt, answer = training_line(rng)
        if len(tokens) + len(prompt) + len(answer) > length:
            fill = length - len(tokens)
            return tokens + [NEWLINE] * fill, weights + [0.0] * fill
        tokens += prompt.encode() + answer.encode()
        weights += [0.05] * len(prompt) + [1.0] * len(answer)


def batch(rng, step):
    """Mostly short rows, as a prompt in use stands alone; every fourth step fills the context."""
    length = MAX_POSITIONS if step % 4 == 3 else 64  # the longest line is 57 bytes
    tokens, weights = zip(*(row_of(rng, length) for _ in range(BATCH_TOKENS // length)))
    return torch.tensor(tokens), torch.tensor(weights)


# ---- training and measuring --------------------------------------------------------------------------------


def new_model():
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=NEWLINE,
        pad_token_id=None,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def train(steps, peak_rate, seed):
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = new_model()
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {steps} steps", flush=True)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=peak_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    warmup = 200

    def rate(step):
        if step < warmup:
            return (step + 1) / warmup
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    probe = held_out_prompts(random.Random(seed + 1), 25)
    start, seen, mean = time.time(), 0, 0.0
    model.train()
    for step in range(steps):
        tokens, weights = batch(rng, step)
        with torch.autocast("cpu", torch.bfloat16):  # a quarter faster, and the weights end as bf16 anyway
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        targets = tokens[:, 1:].flatten()
        losses = functional.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none")
        target_weights = weights[:, 1:].flatten()
        loss = (losses * target_weights).sum() / target_weights.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seen += tokens.numel()
        mean += (loss.item() - mean) * max(0.02, 1 / (step + 1))
        if (step + 1) % 100 == 0:
            elapsed = time.time() - start
            print(f"step {step + 1}  loss {mean:.4f}  {seen / 1e6:.1f} MB  {elapsed:.0f} s", flush=True)
        if (step + 1) % 500 == 0:
            report("  held-out probe", *measure(model, probe))
            model.train()
    return model.eval()


@torch.no_grad()
def measure(model, prompts):
    """Greedy answers up to the newline: ({kind: [right, asked]}, [(prompt, wrong answer given)])."""
    model.eval()
    by_length = defaultdict(list)  # equal lengths need no padding, so no mask can hide a mistake
    for prompt in prompts:
        by_length[len(prompt)].append(prompt)
    settings = GenerationConfig(
        max_new_tokens=MAX_ANSWER, do_sample=False, eos_token_id=NEWLINE, pad_token_id=NEWLINE
    )
    score, wrong = {kind: [0, 0] for kind in KINDS}, []
    for length, group in sorted(by_length.items()):
        tokens = torch.tensor([list(p.encode()) for p in group])
        out = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
        for prompt, row in zip(group, out[:, length:].tolist()):
            given = bytes(row).decode("latin-1")
            right = given.split("\n")[0] == answer_to(prompt) and "\n" in given
            score[kind_of(prompt)][0] += right
            score[kind_of(prompt)][1] += 1
            if not right:
                wrong.append((prompt, given.split("\n")[0]))
    return score, wrong


def report(title, score, wrong):
    right, asked = (sum(column) for column in zip(*score.values()))
    kinds = "  ".join(f"{kind} {r}/{n}" for kind, (r, n) in score.items())
    print(f"{title}: {right}/{asked} = {100 * right / asked:.2f} %   {kinds}", flush=True)
    for prompt, given in wrong[:8]:
        print(f"    {prompt}{given}   (right: {answer_to(prompt)})", flush=True)
    return right / asked


def check(directory):
    """Measures the checkpoint as it lies on disk. Returns the accuracy on heldout.jsonl."""
    questions = [json.loads(line) for line in (directory / "heldout.jsonl").read_text().splitlines()]
    for q in questions:
        if not held_out(q["prompt"]) or q["answer"] != answer_to(q["prompt"]):
            sys.exit(f"{directory}/heldout.jsonl: not a held-out question with its right answer: {q}")
    prompts = [q["prompt"] for q in questions]
    stored = LlamaForCausalLM.from_pretrained(directory, dtype="auto")
    print(f"{directory}: {stored.num_parameters()} parameters, {stored.dtype}")
    accuracy = report("heldout.jsonl, arithmetic in the stored type", *measure(stored, prompts))
    widened = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    report("heldout.jsonl, arithmetic in fp32           ", *measure(widened, prompts))
    more = held_out_prompts(random.Random(7), 500)
    report("more held-out prompts, arithmetic in fp32   ", *measure(widened, more))
    return accuracy


def save(model, directory):
    directory.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=NEWLINE, do_sample=False)
    model.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # written readable by its owner alone
    with open(directory / "heldout.jsonl", "w") as file:
        for prompt in held_out_prompts(random.Random(300), 50):
            file.write(json.dumps({"prompt": prompt, "answer": answer_to(prompt)}) + "\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="the checkpoint's directory")
    parser.add_argument("--check", action="store_true", help="only measure the checkpoint in --out")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    if not args.check:
        save(train(args.steps, args.rate, args.seed), args.out)
    if check(args.out) < 0.95:
        sys.exit("held-out accuracy is below 95 %")


if __name__ == "__main__":
    main()
