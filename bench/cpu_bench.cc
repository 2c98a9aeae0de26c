// The CPU backend against the speed of memory, at the shape of Llama-3.2-1B with random bf16 weights (2.5
// GB).
//
// Every figure is bytes of weights (and of K/V, where they count) per second; `ceiling` is that over what the
// same threads reach when they only read.
// --benchmark_filter=Step/1 is one whole decode step.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "buffers/arena.h"
#include "kernels/cpu/simd.h"
#include "kernels/ops.h"
#include "kernels/read.h"

namespace rondo {
namespace {

// Bytes per second that `threads` threads read `block` at: the best of five passes.
double read_ceiling(const Arena& block, int threads) {
  const std::unique_ptr<Reader> reader = make_cpu_reader(threads);
  uint32_t sink = 0;
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    reader->read(block.data(), block.bytes(), &sink);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(block.bytes()) / seconds.count());
  }
  return best;
}

StepDims shape_1b() {
  StepDims d;
  d.hidden_size = 2048;
  d.intermediate_size = 8192;
  d.layers = 16;
  d.heads = 32;
  d.kv_heads = 8;
  d.head_dim = 64;
  d.vocab_size = 128256;
  d.weight_dtype = DType::bf16;
  d.activation_dtype = DType::f32;
  d.buckets = {1, 2, 4, 8, 16, 64, 256};
  d.max_logit_rows = 8;
  d.max_sequences = 8;
  d.max_context = 4096;
  d.page_size = 32;
  d.pages = 1 + d.max_sequences * d.pages_per_slot();
  return d;
}

struct Fixture {
  StepDims d = shape_1b();
  std::unique_ptr<Device> device = make_host_device();
  Model model;
  StepBuffers b;
  std::unique_ptr<Arena> weights, buffers, pages;
  double ceiling = 0;
  std::unique_ptr<Ops> ops;

  explicit Fixture(int threads) {
    const int64_t H = d.hidden_size, F = d.intermediate_size;
    weights = std::make_unique<Arena>(*device, "weights", [&](Layout& l) {
      model.layers.assign(static_cast<size_t>(d.layers), {});
      model.embedding = l.place("embedding", d.weight_dtype, {d.vocab_size, H});
      for (size_t i = 0; i < model.layers.size(); ++i) {
        Layer& layer = model.layers[i];
        const std::string p = std::to_string(i);
        layer.attention_norm = l.place(p + ".attention_norm", d.weight_dtype, {H});
        layer.qkv.weight = l.place(p + ".qkv", d.weight_dtype, {d.qkv_size(), H});
        layer.o_proj.weight = l.place(p + ".o_proj", d.weight_dtype, {H, d.q_size()});
        layer.mlp_norm = l.place(p + ".mlp_norm", d.weight_dtype, {H});
        layer.gate_up.weight = l.place(p + ".gate_up", d.weight_dtype, {2 * F, H});
        layer.down_proj.weight = l.place(p + ".down_proj", d.weight_dtype, {H, F});
      }
      model.final_norm = l.place("final_norm", d.weight_dtype, {H});
      model.rope.inv_freq = l.place("inv_freq", DType::f32, {d.head_dim / 2});
    });
    model.lm_head.weight = model.embedding;
    uint64_t state = 1;
    uint16_t* bits = static_cast<uint16_t*>(weights->data());
    for (uint64_t i = 0; i < weights->bytes() / 2; ++i) {  // +-(2^-6 .. 2^-5)
      state = state * 6364136223846793005u + 1442695040888963407u;
      bits[i] = static_cast<uint16_t>(0x3C80u | ((state >> 33) & 0x807Fu));
    }
    for (int64_t i = 0; i < d.head_dim / 2; ++i)
      model.rope.inv_freq.as<float>()[i] = 1.0f / static_cast<float>(1 + i);
    buffers = std::make_unique<Arena>(*device, "buffers", [&](Layout& l) { b = lay_out_step(l, d); });
    std::vector<KvPages> kv;
    pages = std::make_unique<Arena>(*device, "pages", [&](Layout& l) { kv = lay_out_pages(l, d); });
    for (size_t i = 0; i < kv.size(); ++i) model.layers[i].pages = kv[i];
    std::memset(pages->data(), 0,
                pages->bytes());  // else the first rows of every page would pay for the system's zeroing
    std::memset(buffers->data(), 0, buffers->bytes());
    int32_t page = 1;
    for (int64_t i = d.pages_per_slot(); i < d.slots() * d.pages_per_slot(); ++i)
      b.page_tables.as<int32_t>()[i] = page++;
    ceiling = read_ceiling(*weights, threads);
    ops = make_cpu_ops(d, b, model, threads);
  }

  // `rows` rows: up to 8 each of a sequence of its own at `position`; more are one prompt that ends there.
  Bucket fill_rows(int rows, int position) {
    Bucket bucket = bucket_of(d, rows);
    const bool prompt = rows > d.max_sequences;
    if (prompt) bucket.logit_rows = 1;  // of its last row
    for (int r = 0; r < bucket.rows; ++r)
      b.rows.as<Row>()[r] =
          prompt ? Row{r + 1, position - rows + 1 + r, 1, 1} : Row{r + 1, position, r + 1, 1};
    for (int l = 0; l < bucket.logit_rows; ++l) b.logit_rows.as<int32_t>()[l] = prompt ? rows - 1 : l;
    return bucket;
  }
};

Fixture* fixture = nullptr;  // of main(); Google Benchmark's functions take no context

void report(benchmark::State& state, uint64_t bytes) {
  const double total = static_cast<double>(bytes) * static_cast<double>(state.iterations());
  state.SetBytesProcessed(static_cast<int64_t>(total));
  state.counters["ceiling_%"] =
      benchmark::Counter(100 * total / fixture->ceiling, benchmark::Counter::kIsRate);
}

template <class Verb>
void run_verb(benchmark::State& state, int position, uint64_t bytes_per_layer, const Verb& verb) {
  Fixture& f = *fixture;
  const Bucket bucket = f.fill_rows(static_cast<int>(state.range(0)), position);
  f.ops->embed(bucket);
  size_t layer = 0;  // another one each time, as in a step: one layer alone would stay in the cache
  for (auto _ : state) {
    verb(f, bucket, f.model.layers[layer]);
    layer = (layer + 1) % f.model.layers.size();
  }
  report(state, bytes_per_layer);
}

void Qkv(benchmark::State& s) {
  run_verb(s, 512, fixture->model.layers[0].qkv.weight.bytes(),
           [](Fixture& f, Bucket k, Layer& l) { f.ops->qkv(k, l); });
}
void OProj(benchmark::State& s) {
  run_verb(s, 512, fixture->model.layers[0].o_proj.weight.bytes(),
           [](Fixture& f, Bucket k, Layer& l) { f.ops->add_project(k, f.b.o, l.o_proj); });
}
void GateUp(benchmark::State& s) {
  run_verb(s, 512, fixture->model.layers[0].gate_up.weight.bytes(),
           [](Fixture& f, Bucket k, Layer& l) { f.ops->gate_up(k, l); });
}
void DownProj(benchmark::State& s) {
  run_verb(s, 512, fixture->model.layers[0].down_proj.weight.bytes(),
           [](Fixture& f, Bucket k, Layer& l) { f.ops->add_project(k, f.b.h, l.down_proj); });
}
void Logits(benchmark::State& s) {
  run_verb(s, 512, fixture->model.embedding.bytes(), [](Fixture& f, Bucket k, Layer&) { f.ops->logits(k); });
}
void Attend(benchmark::State& s) {
  const int position = static_cast<int>(s.range(1));
  const uint64_t bytes = static_cast<uint64_t>(s.range(0) * (position + 1) * fixture->d.kv_size()) * 2 * 2;
  run_verb(s, position, bytes, [](Fixture& f, Bucket k, Layer& l) { f.ops->attend(k, l); });
}

void Sample(benchmark::State& s) {
  Fixture& f = *fixture;
  const Bucket bucket = f.fill_rows(1, 512);
  for (int64_t v = 0; v < f.d.vocab_size; ++v)
    f.b.logits.as<float>()[v] = static_cast<float>(v * 7919 % 1000) * 0.02f;
  SlotParams& p = f.b.slots.as<SlotParams>()[1];
  p = SlotParams{};
  if (s.range(0) > 0) p.temperature = 0.8f;
  if (s.range(0) > 1) p.top_p = 0.95f;
  if (s.range(0) > 2) p.top_k = 50, p.repetition_penalty = 1.1f;
  for (auto _ : s) f.ops->sample(bucket);
  p = SlotParams{};
}

void Step(benchmark::State& state) {
  Fixture& f = *fixture;
  const int position = static_cast<int>(state.range(1)), rows = static_cast<int>(state.range(0));
  const Bucket k = f.fill_rows(rows, position);
  for (auto _ : state) {
    f.ops->embed(k);
    for (const Layer& l : f.model.layers) {
      f.ops->qkv(k, l);
      f.ops->attend(k, l);
      f.ops->add_project(k, f.b.o, l.o_proj);
      f.ops->gate_up(k, l);
      f.ops->add_project(k, f.b.h, l.down_proj);
    }
    f.ops->logits(k);
    f.ops->sample(k);
  }
  const int64_t sequences = rows > f.d.max_sequences ? 1 : rows;
  report(state, f.weights->bytes() +
                    static_cast<uint64_t>(sequences * (position + 1) * f.d.kv_size() * f.d.layers) * 2 * 2);
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * rows, benchmark::Counter::kIsRate);
}

#define RONDO_BENCH(verb) BENCHMARK(verb)->UseRealTime()->Unit(benchmark::kMicrosecond)
RONDO_BENCH(Qkv)->Arg(1)->Arg(8);
RONDO_BENCH(OProj)->Arg(1)->Arg(8);
RONDO_BENCH(GateUp)->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Arg(64);
RONDO_BENCH(DownProj)->Arg(1)->Arg(8)->Arg(64);
RONDO_BENCH(Logits)->Arg(1)->Arg(8);
RONDO_BENCH(Attend)->Args({1, 512})->Args({1, 4000})->Args({64, 512});
RONDO_BENCH(Sample)->Arg(0)->Arg(1)->Arg(2)->Arg(3);
RONDO_BENCH(Step)
    ->Args({1, 128})
    ->Args({1, 2048})
    ->Args({8, 128})
    ->Args({4, 128})
    ->Args({64, 128})
    ->Args({256, 255})
    ->Args({256, 512});

}  // namespace
}  // namespace rondo

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  int threads = 0;
  if (argc == 3 && std::strcmp(argv[1], "--threads") == 0) {
    threads = std::atoi(argv[2]);
  } else if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 2;
  }
  rondo::Fixture fixture(threads);
  rondo::fixture = &fixture;
  std::printf("%s, read ceiling %.2f GB/s\n", rondo::simd_name(), fixture.ceiling * 1e-9);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
