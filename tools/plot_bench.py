#!/usr/bin/env python3
"""Pictures from the JSON of `rondo bench -o json`, one PNG per picture.

    tools/plot_bench.py RESULT.json... --out FOLDER

  steps.png    time of a decode step against its rows, eager, replay and ahead, with the floor that the read ceiling sets
  graph.png    eager against replay against ahead: what a step takes, the floor hatched in each bar
  context.png  share of the read ceiling by context

Each is drawn from the cells that the results have; a picture without cells is left out and said so. Needs matplotlib
(python3-matplotlib on Debian).
"""
import argparse
import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

MODES = {"eager": ("#b0793a", "o"), "replay": ("#2f6db3", "s"), "ahead": ("#2e8b57", "^")}
SHADES = ["#2f6db3", "#2e8b57", "#b0793a", "#8a4f9e", "#b33a3a", "#5a5a5a"]


def load(path):
    try:
        result = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: expected the JSON of rondo bench -o json, found: {error}")
    if not isinstance(result, dict) or "environment" not in result or "run" not in result:
        sys.exit(f"{path}: expected the JSON of rondo bench -o json, found no environment and run in it")
    return result


def model_name(result):
    path = pathlib.Path(result["run"]["model"])
    return path.stem if path.suffix == ".json" else path.name


def decode_cells(result):
    return [c for c in result.get("cells", []) if c["kind"] == "decode" and "left_out" not in c]


def floor_ms(cell):
    return cell["bytes"]["total"] / (cell["ceiling_gb_per_second"] * 1e6)


def most_common(values):
    return max(set(values), key=values.count)


def by_model(results):
    """{model: cells}, in the order given."""
    models = {}
    for result in results:
        models.setdefault(model_name(result), []).extend(decode_cells(result))
    return {name: cells for name, cells in models.items() if cells}


def spread(cells):
    """Error bars from the median to the 5th and the 95th percentile."""
    ms = [c["ms"] for c in cells]
    return [[m["median"] - m["p5"] for m in ms], [m["p95"] - m["median"] for m in ms]]


def grid(count, width, height):
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), squeeze=False)
    return figure, axes[0]


def draw_steps(results):
    """For each model: ms per step against rows at its most common context."""
    models = {}
    for name, cells in by_model(results).items():
        context = most_common([c["context"] for c in cells])
        here = [c for c in cells if c["context"] == context]
        if len({c["rows"] for c in here}) > 1:
            models[name] = (context, here)
    if not models:
        return None
    figure, axes = grid(len(models), 5.2, 4.2)
    for axis, (name, (context, cells)) in zip(axes, models.items()):
        floor = sorted({c["rows"]: floor_ms(c) for c in cells}.items())
        axis.plot([r for r, _ in floor], [f for _, f in floor], color="black", linestyle="--", linewidth=1,
                  label="floor: bytes / read ceiling")
        for mode, (colour, marker) in MODES.items():
            first = {}  # of several files the first one's
            for cell in cells:
                if cell["graph"] == mode:
                    first.setdefault(cell["rows"], cell)
            line = [first[rows] for rows in sorted(first)]
            if line:
                axis.errorbar([c["rows"] for c in line], [c["ms"]["median"] for c in line], yerr=spread(line),
                              color=colour, marker=marker, markersize=4, linewidth=1.4, capsize=2, label=mode)
        axis.set_xscale("log", base=2)
        ticks = sorted({c["rows"] for c in cells})
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_xlabel("rows (sequences decoding at once)")
        axis.set_ylabel("ms per step")
        axis.set_title(f"{name}, context {context}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure


def draw_graph(results):
    """For each model at its fewest rows: one bar per mode, the floor hatched."""
    models = {}
    for name, cells in by_model(results).items():
        rows = min(c["rows"] for c in cells)
        context = most_common([c["context"] for c in cells if c["rows"] == rows])
        here = {c["graph"]: c for c in reversed(cells) if c["rows"] == rows and c["context"] == context}
        if len(here) > 1:
            models[f"{name}\n{rows} row{'s' if rows > 1 else ''}, context {context}"] = here
    if not models:
        return None
    modes = [m for m in MODES if any(m in cells for cells in models.values())]
    figure, axes = grid(1, max(5.2, 2.2 * len(models)), 4.2)
    axis, width = axes[0], 0.8 / len(modes)
    for i, cells in enumerate(models.values()):
        for j, mode in enumerate(modes):
            if mode not in cells:
                continue
            cell, x = cells[mode], i + (j - (len(modes) - 1) / 2) * width
            axis.bar(x, cell["ms"]["median"], width * 0.92, color=MODES[mode][0], label=mode if i == 0 else None)
            axis.bar(x, floor_ms(cell), width * 0.92, color="none", edgecolor="white", hatch="///", linewidth=0,
                     label="of it the floor" if i == 0 and j == 0 else None)
            axis.text(x, cell["ms"]["median"], f"{cell['ms']['median']:.3g}", ha="center", va="bottom", fontsize=8)
    axis.set_xticks(range(len(models)), list(models))
    axis.set_ylabel("ms per step")
    axis.set_title("Launched one by one, replayed, replayed ahead")
    legend = axis.legend(fontsize=8, facecolor="#dddddd")
    legend.get_frame().set_alpha(1)
    axis.grid(axis="y", alpha=0.3)
    return figure


def draw_context(results):
    """Share of the ceiling against context, one line per model, rows and mode."""
    lines = {}
    for name, cells in by_model(results).items():
        for cell in cells:
            if cell["graph"] == "eager" and any(c["graph"] != "eager" for c in cells):
                continue
            points = lines.setdefault((name, cell["rows"], cell["graph"]), {})
            points.setdefault(cell["context"], cell["ceiling_percent"])
    lines = {key: points for key, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    figure, axes = grid(1, 6.4, 4.2)
    axis = axes[0]
    for i, ((name, rows, mode), points) in enumerate(lines.items()):
        contexts = sorted(points)
        axis.plot(contexts, [points[c] for c in contexts], marker="o", markersize=4, linewidth=1.4,
                  color=SHADES[i % len(SHADES)], label=f"{name}, {rows} row{'s' if rows > 1 else ''}, {mode}")
    axis.axhline(100, color="black", linestyle="--", linewidth=1)
    axis.set_xscale("log", base=2)
    ticks = sorted({c for points in lines.values() for c in points})
    axis.set_xticks(ticks, [str(t) for t in ticks], rotation=30)
    axis.minorticks_off()
    axis.set_ylim(0, 110)
    axis.set_xlabel("context (positions of each sequence)")
    axis.set_ylabel("% of the read ceiling (weights and K/V)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


PICTURES = {"steps": draw_steps, "graph": draw_graph, "context": draw_context}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="RESULT.json")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the pictures go; made if need be")
    parser.add_argument("--pictures", default=",".join(PICTURES), metavar="NAMES", help="which of " + ", ".join(PICTURES))
    arguments = parser.parse_args()
    names = arguments.pictures.split(",")
    for name in names:
        if name not in PICTURES:
            parser.error(f"--pictures: expected some of {', '.join(PICTURES)}, found \"{name}\"")
    results = [load(path) for path in arguments.results]
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    drawn = 0
    for name in names:
        figure = PICTURES[name](results)
        if figure is None:
            print(f"{name}: left out, these results have no cells for it", file=sys.stderr)
            continue
        environment = results[0]["environment"]
        figure.text(0.01, 0.005, f"{environment['device']}, {environment['platform']}, rondo {environment['version']} "
                    f"({environment['commit']}), {environment['time'][:10]}", fontsize=6, color="#555555")
        figure.tight_layout(rect=(0, 0.03, 1, 1))
        path = out / f"{name}.png"
        figure.savefig(path, dpi=130, metadata={"Software": None})
        plt.close(figure)
        print(path)
        drawn += 1
    return 0 if drawn else 2


if __name__ == "__main__":
    sys.exit(main())
