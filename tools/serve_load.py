#!/usr/bin/env python3
"""How fast `rondo generate --jsonl` serves many requests at once.

    tools/serve_load.py build/rondo --config models/llama-3.1-8b.json --random-weights --device cuda
    tools/serve_load.py build/rondo --model DIR --requests 16 --prompt 64 --new-tokens 32

Sends all requests at once, reads a line per token, and prints: the time from the first byte of the model's first token
back to the request (time to first token, first and last request), tokens/s of the whole, and tokens/s of the stretch
in which every request decodes, which is what `rondo bench --rows N` measures of plain steps.
"""
import argparse
import json
import random
import subprocess
import sys
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rondo")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of each prompt")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--vocab-size", type=int, default=32000, help="prompts are drawn from the first so many tokens")
    args, model = parser.parse_known_args()

    positions = args.prompt + args.new_tokens + 1
    command = [args.rondo, "generate", "--jsonl", "--stream", "--max-sequences", str(args.requests), "--max-context",
               str(positions), "--max-rows", str(max(512, args.requests)), *model]
    draw = random.Random(1)
    lines = [json.dumps({"id": i, "prompt_ids": [draw.randrange(args.vocab_size) for _ in range(args.prompt)],
                         "max_new_tokens": args.new_tokens, "ignore_eos": True})
             for i in range(args.requests)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    # The model is loaded when the answer to a request of one token has come.
    server.stdin.write(json.dumps({"id": "warm", "prompt_ids": [1, 2, 3], "max_new_tokens": 1}) + "\n")
    server.stdin.flush()
    while True:
        line = server.stdout.readline()
        if not line:
            sys.exit(f"expected tokens, found the end of the output; exit status {server.wait()}")
        if json.loads(line).get("finish_reason"):
            break

    start = time.perf_counter()
    server.stdin.write("\n".join(lines) + "\n")
    server.stdin.close()
    first, last, tokens = {}, {}, []
    for line in server.stdout:
        now, answer = time.perf_counter() - start, json.loads(line)
        if "error" in answer:
            sys.exit(f"request {answer.get('id')}: {answer['error']}")
        if "token" in answer:
            first.setdefault(answer["id"], now)
            last[answer["id"]] = now
            tokens.append(now)
    if server.wait() != 0 or len(first) != args.requests:
        sys.exit(f"expected tokens of {args.requests} requests, found those of {len(first)}; exit status {server.returncode}")

    begin, end = max(first.values()), min(last.values())
    steady = sum(begin < t <= end for t in tokens)
    print(f"requests {args.requests}, prompt {args.prompt}, tokens {len(tokens)}")
    print(f"time to first token: {min(first.values()) * 1000:.0f} ms, of the last request {begin * 1000:.0f} ms")
    print(f"whole: {len(tokens) / max(tokens):.0f} tokens/s, {max(tokens) * 1000:.0f} ms")
    if steady:
        print(f"all decoding: {steady / (end - begin):.0f} tokens/s over {(end - begin) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
