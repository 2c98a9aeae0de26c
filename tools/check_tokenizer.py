#!/usr/bin/env python3
"""Compares rondo's text with the Python package `tokenizers`, id by id.

    pip install tokenizers
    tools/check_tokenizer.py build/rondo                 # 10,000 strings through a tokenizer of each family's kind
    tools/check_tokenizer.py build/rondo --model DIR     # the same strings through DIR/tokenizer.json
    tools/check_tokenizer.py build/rondo --fixtures      # writes tests/tokenizers anew

The tokenizers are trained here, on the repository's own text, with the split patterns and options that the families' files
have. Of each string the ids with the special tokens and the text of the ids, with and without special tokens, are compared.
The strings keep to characters of Unicode 14, since later ones are letters or not by the version of each side's tables.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
HAN = r"[一-龥぀-ゟ゠-ヿ]+"

SENTENCES = [
    "The quick brown fox jumps over the lazy dog; it's what they'd've done, isn't it? I'LL SEE. We're sure you've 12345 reasons.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Straße, Maß, Übermut.",
    "Voix ambiguë d'un cœur qui, au zéphyr, préfère les jattes de kiwis. L'été à Noël.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "いろはにほへと ちりぬるを。私は東京に住んでいます。カタカナも。",
    "我能吞下玻璃而不伤身体。今天是2024年5月17日，天气很好！",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.",
    "نص حكيم له سر قاطع وذو شأن عظيم ١٢٣٤٥",
    "दीवारबंद जयपुर ऐसी एक अनूठी क्षेत्र है। १२३",
    "ดูกรภิกษุทั้งหลาย เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "def f(x):\n    return {'a': x[0] + 1, \"b\": None}  # comment\n\n\tif x != y and z >= 10:\r\n\t\tpass\n",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }\n// https://example.org/?q=1&r=%20x#top\n",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 🇩🇪🇫🇷 👍🏽 ☕️ ❤️ ∑∫√≈≠ ½⅓ Ⅷ ① ㊙",
    "e\u0301 o\u0308 n\u0303 A\u030a \u1112\u1161\u11ab \u0958 \u2126 \uFB01 \u0344 q\u0307\u0323 \u1E9B\u0323",
]


def corpus():
    texts = list(SENTENCES) * 20
    for pattern in ("README.md", "docs/*.md", "runner/*.cc", "kernels/cpu/*.cc"):
        texts += [path.read_text() for path in sorted(ROOT.glob(pattern))]
    return texts


def isolated(pattern, **how):
    return pre_tokenizers.Split(Regex(pattern), how.get("behavior", "isolated"), invert=how.get("invert", False))


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def template(*before):
    return lambda t: processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=" ".join([*before, "$A"]), pair=" ".join([*before, "$A", "$B"]),
                                      special_tokens=[(token, t.token_to_id(token)) for token in before])])


def trained(pre_tokenizer, normalizer=None, added=(), post=None, vocab_size=1200, pairs=True, **model):
    """A tokenizer's JSON. What is in `model` is set after training."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        t.normalizer = normalizer
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False,
                                                        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    for token in added:
        (t.add_special_tokens if token.special else t.add_tokens)([token])
    if post is not None:
        t.post_processor = post(t)
    whole = json.loads(t.to_str())
    whole["model"].update(model)
    if not pairs:
        whole["model"]["merges"] = [" ".join(merge) for merge in whole["model"]["merges"]]
    return whole


def special(text, **how):
    return AddedToken(text, special=True, normalized=False, **how)


def families():
    yield "llama3", trained(pre_tokenizers.Sequence([isolated(LLAMA3), byte_level()]), ignore_merges=True, pairs=False,
                            added=[special("<|begin_of_text|>"), special("<|end_of_text|>"), special("<|eot_id|>")],
                            post=template("<|begin_of_text|>"))
    yield "qwen2", trained(pre_tokenizers.Sequence([isolated(QWEN2), byte_level()]), normalizer=normalizers.NFC(),
                           added=[special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>"),
                                  AddedToken("<tool_call>", normalized=False, special=False),
                                  AddedToken("</tool_call>", normalized=False, special=False)],
                           post=lambda t: processors.ByteLevel(trim_offsets=False))
    # Mistral's special tokens are in the vocabulary, before everything else.
    mistral = trained(pre_tokenizers.Sequence([isolated(TEKKEN), byte_level()]), ignore_merges=True)
    first = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"]
    vocab = {token: i + len(first) for token, i in mistral["model"]["vocab"].items()}
    mistral["model"]["vocab"] = {token: i for i, token in enumerate(first)} | vocab
    mistral["added_tokens"] = [dict(id=i, content=token, single_word=False, lstrip=False, rstrip=False, normalized=False,
                                    special=True) for i, token in enumerate(first)]
    mistral["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    yield "mistral", mistral
    yield "gpt2", trained(byte_level(prefix=True, regex=True), added=[special("<|endoftext|>")], pairs=False)
    # What the families do not use and other files do.
    yield "options", trained(
        pre_tokenizers.Sequence([pre_tokenizers.Split("_", "merged_with_next"), isolated(HAN),
                                 pre_tokenizers.Digits(individual_digits=True),
                                 isolated(CL100K, behavior="removed", invert=True), byte_level()]),
        normalizer=normalizers.NFC(),
        added=[special("<mask>", lstrip=True), special("<sep>", rstrip=True), special("<both>", lstrip=True, rstrip=True),
               special("<word>", single_word=True), AddedToken("caf\u00e9s", normalized=True, special=False),
               AddedToken("\u2126hm", normalized=True, single_word=True, special=False),
               AddedToken("\u212b", normalized=True, special=True),
               AddedToken("<sep><sep>", normalized=False, special=False), AddedToken("fox", normalized=True, special=False)],
        post=template("<sep>", "<mask>"))


def assigned(rng):
    while True:
        code = rng.choice((rng.randrange(0x80), rng.randrange(0x800), rng.randrange(0x10000), rng.randrange(0x32000)))
        if unicodedata.category(chr(code)) not in ("Cn", "Cs") and code:
            return chr(code)


def marks(rng):
    return "".join(chr(rng.randrange(0x300, 0x370)) for _ in range(rng.randrange(1, 5)))


def strings(count, added, seed=7):
    """`count` varied strings, the same for the same arguments."""
    rng = random.Random(seed)
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    parts = [
        lambda: rng.choice(words),
        lambda: rng.choice(SENTENCES),
        lambda: rng.choice(SENTENCES)[rng.randrange(20):][:rng.randrange(1, 30)],
        lambda: rng.choice((" ", "  ", "\n", "\r\n", "\t", "\n\n", " \n ", "   ", "\u00a0", "\u2003", "\u3000", "\u0085",
                            "\u180e", "\u200b", "\u2028", "\v", "\f", " " * rng.randrange(1, 40))),
        lambda: str(rng.randrange(10 ** rng.randrange(1, 12))),
        lambda: rng.choice(("'s", "'T", "'Re", "'VE", "'m", "'lL", "'d", "\u2019s", "'\u017f", "'S'", "''ll", "_", "__x_")),
        lambda: "".join(assigned(rng) for _ in range(rng.randrange(1, 8))),
        lambda: "".join(rng.choice("!-/:@[`{~\"'.,;?#$%^&*()+=<>|\\") for _ in range(rng.randrange(1, 7))),
        lambda: rng.choice("aeonquAKE\u03b1\u0438\u304b\u1100") + marks(rng),
        lambda: chr(rng.randrange(0x1100, 0x1200)) + chr(rng.randrange(0x1160, 0x11a8)) + chr(rng.randrange(0x11a8, 0x1200)),
        lambda: chr(rng.randrange(0xAC00, 0xD7A4)),
        lambda: chr(rng.randrange(0x4E00, 0xA000)),
        lambda: rng.choice("ab c\n1.") * rng.randrange(1, 60),
    ]
    if added:
        parts += 2 * [lambda: rng.choice(added), lambda: " " + rng.choice(added) + "\n", lambda: rng.choice(added)[:-1]]
    made = ["", " ", "\n", "a", "\u0301", "\U0010ffff", "\ufeff", *SENTENCES, *added]
    for length in (1000, 20000):
        made += [" " * length, "a" * length, "\n" * length, "ab " * length, "\u0301\u0323" * length, "漢" * length,
                 "".join(assigned(rng) for _ in range(length)), "1" * length, "A" * length, "!" * length]
    while len(made) < count:
        made.append("".join(rng.choice(parts)() for _ in range(rng.randrange(1, 14))))
    return [unicodedata.normalize("NFD", text) if i % 9 == 0 else text for i, text in enumerate(made[:count])]


def ask(program, folder, requests):
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([program, "tokenize", "--model", str(folder)], input=lines, capture_output=True, encoding="utf-8")
    answers = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    if done.returncode != 0 or len(answers) != len(requests):
        bad = [answer for answer in answers if "error" in answer][:3]
        sys.exit(f"rondo tokenize: status {done.returncode}, {len(answers)} answers to {len(requests)} lines\n{done.stderr}{bad}")
    return answers


def check(program, name, folder, count):
    t = Tokenizer.from_file(str(folder / "tokenizer.json"))
    added = [token.content for token in t.get_added_tokens_decoder().values()]
    texts = strings(count, added)
    ids = [encoding.ids for encoding in t.encode_batch(texts)]
    known = t.get_vocab_size()
    rng = random.Random(3)
    # Ids that no text has, too: characters that are cut, and marks among them.
    lists = ids + [[rng.randrange(known + 2) for _ in range(rng.randrange(30))] for _ in range(count // 10)]
    requests = [{"text": text} for text in texts]
    requests += [{"ids": row, "skip_special_tokens": skip} for skip in (True, False) for row in lists]
    expected = [{"ids": row} for row in ids]
    expected += [{"text": t.decode(row, skip_special_tokens=skip)} for skip in (True, False) for row in lists]
    wrong = 0
    for request, want, found in zip(requests, expected, ask(program, folder, requests)):
        if want != found:
            wrong += 1
            if wrong <= 3:
                print(f"{name}: {json.dumps(request)[:300]}\n  expected {json.dumps(want)[:300]}\n  found    {json.dumps(found)[:300]}")
    print(f"{name}: {len(texts)} strings, {sum(map(len, ids))} ids, {2 * len(lists)} decodings, {wrong} differ", flush=True)
    return wrong


def write_fixtures(folder, whole):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n")
    t = Tokenizer.from_file(str(folder / "tokenizer.json"))
    added = [token["content"] for token in whole["added_tokens"]]
    texts = [text for text in strings(600, added, seed=11) if len(text) < 120][:200] + ["\0", "a\0 b", "x" * 800 + " " * 200]
    with open(folder / "expected.jsonl", "w") as out:
        for text in texts:
            ids = t.encode(text).ids
            # "shown" and "marked", the text without and with special tokens, where they are not the text itself.
            entry = {"text": text, "ids": ids}
            for key, skip in (("shown", True), ("marked", False)):
                back = t.decode(ids, skip_special_tokens=skip)
                if back != text:
                    entry[key] = back
            out.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="build/rondo")
    parser.add_argument("--model", type=pathlib.Path, help="a directory with a tokenizer.json, in place of the trained ones")
    parser.add_argument("--count", type=int, default=10000, help="strings per tokenizer")
    parser.add_argument("--fixtures", action="store_true", help="write tests/tokenizers anew")
    arguments = parser.parse_args()
    if arguments.model:
        sys.exit(check(arguments.program, arguments.model.name, arguments.model, arguments.count) > 0)
    wrong = 0
    for name, whole in families():
        if arguments.fixtures:
            write_fixtures(ROOT / "tests/tokenizers" / name, whole)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            (path / "tokenizer.json").write_text(json.dumps(whole))
            wrong += check(arguments.program, name, path, arguments.count)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
