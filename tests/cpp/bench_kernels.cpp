#include "bench_kernels.h"

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <functional>

#include "ggml_blocks.h"
#include "kernels/pack.h"
#include "peak.h"
#include "support.h"

namespace check {
namespace {

using k::Format;
using k::kStripRows;
using k::kTileColumns;

constexpr int kRepeats = 9;
constexpr double kLeastSeconds = 0.005;  // of a repeat

// base's first MLP matrix over one window; scalar, which takes seconds for that, has a part of the window.
constexpr int64_t kK = 512, kN = 2048;

int64_t rows_of(const k::KernelTable& table) {
    return std::string(table.isa) == "scalar" ? 60 : 1500;
}

const Peak* peak_of(const char* isa) {
    const Peak* all[] = {
        &kPeakScalar,
#ifdef WHISPERQ_HAVE_AVX2
        &kPeakAvx2,
#endif
#ifdef WHISPERQ_HAVE_AVX512VNNI
        &kPeakAvx512Vnni,
#endif
#ifdef WHISPERQ_HAVE_AVX512BF16
        &kPeakAvx512Bf16,
#endif
#ifdef WHISPERQ_HAVE_NEON
        &kPeakNeon,
#endif
#ifdef WHISPERQ_HAVE_NEON_DOTPROD
        &kPeakNeonDotprod,
#endif
#ifdef WHISPERQ_HAVE_NEON_I8MM
        &kPeakNeonI8mm,
#endif
    };
    for (const Peak* peak : all) {
        if (std::string(peak->isa) == isa) return peak;
    }
    return nullptr;
}

// Of this thread: what others run on this core meanwhile does not count.
double cpu_seconds() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds_of(const std::function<void()>& work) {
    const double begin = cpu_seconds();
    work();
    return cpu_seconds() - begin;
}

double probe(PeakProbe peak) {
    constexpr int64_t kRounds = 200000;
    int64_t operations = 0;
    const double seconds = seconds_of([&] { operations = peak(kRounds); });
    return static_cast<double>(operations) / seconds * 1e-9;
}

// Runs `work`, which does `amount` of something, as often as it takes, with the peak's probe between its repeats: both
// see the same clock rate and the same neighbours.
Timing measure(const k::KernelTable& table, const std::string& kernel, const std::string& shape, const char* unit,
               double amount, PeakProbe peak, const std::function<void()>& work) {
    work();  // caches, clock rate
    const double once = seconds_of(work);
    const int runs = std::max(1, static_cast<int>(kLeastSeconds / std::max(once, 1e-9)));
    Timing timing = {table.isa, kernel, shape, unit, 0.0, 0.0};
    for (int i = 0; i < kRepeats; ++i) {
        if (peak != nullptr) timing.peak = std::max(timing.peak, probe(peak));
        const double seconds = seconds_of([&] {
            for (int j = 0; j < runs; ++j) work();
        });
        timing.rate = std::max(timing.rate, amount * runs / seconds * 1e-9);
    }
    return timing;
}

std::string product_shape(int64_t m) {
    return std::to_string(m) + "x" + std::to_string(kK) + "x" + std::to_string(kN);
}

// As the engine does it: a group of tiles is expanded once, then every strip goes by.
Timing bench_blocks(const k::KernelTable& table, const k::FormatInfo& format, PeakProbe peak) {
    const int64_t m = rows_of(table);
    Random random(1);
    const std::vector<uint8_t> rows = random_rows(format, Weights::random, kN, kK, random);
    Guarded<uint8_t> packed(static_cast<int64_t>(k::packed_bytes(format.format, kN, kK)));
    k::pack_rows(format.format, rows.data(), 0, kN, kK, packed.data());
    const int64_t n_strips = (m + kStripRows - 1) / kStripRows;
    const auto strip_bytes = static_cast<int64_t>(k::strip_bytes(kK));
    const auto tile_bytes = static_cast<int64_t>(k::tile_bytes(format.format, kK));
    const auto expanded_bytes = static_cast<int64_t>(k::expanded_bytes(kK));
    Guarded<float> input(kStripRows * kK), out(m * kN);
    for (int64_t i = 0; i < input.size(); ++i) input[i] = random.normal();
    Guarded<uint8_t> strips(n_strips * strip_bytes), expanded(table.tiles_per_call * expanded_bytes);
    for (int64_t s = 0; s < n_strips; ++s) {
        table.quantize_strip(input.data(), kK, kStripRows, kK, strips.data() + s * strip_bytes);
    }
    return measure(table, std::string("multiply_strip ") + format.name, product_shape(m), "GOP/s",
                   2.0 * static_cast<double>(m * kK * kN), peak, [&] {
                       for (int64_t t = 0; t < k::n_tiles(kN); t += table.tiles_per_call) {
                           const int64_t n_tiles = std::min(table.tiles_per_call, k::n_tiles(kN) - t);
                           for (int64_t i = 0; i < n_tiles; ++i) {
                               table.expand_tile(format.format, packed.data() + (t + i) * tile_bytes, kK,
                                                 expanded.data() + i * expanded_bytes);
                           }
                           for (int64_t s = 0; s < n_strips; ++s) {
                               table.multiply_strip(strips.data() + s * strip_bytes, expanded.data(), n_tiles, kK,
                                                    format.has_minimum, std::min(kStripRows, m - s * kStripRows),
                                                    n_tiles * kTileColumns,
                                                    out.data() + s * kStripRows * kN + t * kTileColumns, kN, {});
                           }
                       }
                   });
}

// f16 weights are made floats a group of tiles at a time; f32 ones are used as they lie.
Timing bench_floats(const k::KernelTable& table, Format format, PeakProbe peak) {
    const int64_t m = rows_of(table);
    Random random(1);
    Guarded<float> input(m * kK), panels(kN * kK), out(m * kN);
    Guarded<uint16_t> halves(kN * kK);
    for (int64_t i = 0; i < input.size(); ++i) input[i] = random.normal();
    for (int64_t i = 0; i < panels.size(); ++i) {
        halves[i] = random.half(10, 14);
        panels[i] = static_cast<float>(half_value(halves[i]));
    }
    Guarded<float> converted(table.tiles_per_call * kTileColumns * kK);
    return measure(
        table, std::string("multiply_float ") + k::info(format).name, product_shape(m), "GOP/s",
        2.0 * static_cast<double>(m * kK * kN), peak, [&] {
            for (int64_t t = 0; t < k::n_tiles(kN); t += table.tiles_per_call) {
                const int64_t n_tiles = std::min(table.tiles_per_call, k::n_tiles(kN) - t);
                const int64_t first = t * kTileColumns * kK;
                const float* panel = panels.data() + first;
                if (format == Format::f16) {
                    table.half_to_float(halves.data() + first, n_tiles * kTileColumns * kK, converted.data());
                    panel = converted.data();
                }
                for (int64_t row = 0; row < m; row += kStripRows) {
                    table.multiply_float(input.data() + row * kK, kK, panel, n_tiles, kK, std::min(kStripRows, m - row),
                                         n_tiles * kTileColumns, out.data() + row * kN + t * kTileColumns, kN, {});
                }
            }
        });
}

Timing bench_quantize(const k::KernelTable& table) {
    Guarded<float> input(kStripRows * kK);
    Random random(1);
    for (int64_t i = 0; i < input.size(); ++i) input[i] = random.normal();
    Guarded<uint8_t> strip(static_cast<int64_t>(k::strip_bytes(kK)));
    return measure(table, "quantize_strip", "6x512", "Gvalue/s", kStripRows * kK, nullptr,
                   [&] { table.quantize_strip(input.data(), kK, kStripRows, kK, strip.data()); });
}

Timing bench_expand(const k::KernelTable& table, const k::FormatInfo& format) {
    Random random(1);
    const std::vector<uint8_t> rows = random_rows(format, Weights::random, kTileColumns, kK, random);
    Guarded<uint8_t> packed(static_cast<int64_t>(k::packed_bytes(format.format, kTileColumns, kK)));
    k::pack_rows(format.format, rows.data(), 0, kTileColumns, kK, packed.data());
    Guarded<uint8_t> expanded(static_cast<int64_t>(k::expanded_bytes(kK)));
    return measure(table, std::string("expand_tile ") + format.name, "16x512", "Gvalue/s", kTileColumns * kK, nullptr,
                   [&] { table.expand_tile(format.format, packed.data(), kK, expanded.data()); });
}

Timing bench_gelu(const k::KernelTable& table) {
    Guarded<float> values(8192);
    Random random(1);
    const auto refill = [&] {  // gelu of gelu of ... goes to 0, where it may be faster
        for (int64_t i = 0; i < values.size(); ++i) values[i] = 1.5f * static_cast<float>(i % 64 - 32) / 16.0f;
    };
    return measure(table, "gelu", "8192", "Gvalue/s", static_cast<double>(values.size()), nullptr, [&] {
        refill();
        table.gelu(values.data(), values.size());
    });
}

Timing bench_layer_norm(const k::KernelTable& table) {
    Random random(1);
    Guarded<float> input(kStripRows * kK), out(kStripRows * kK), weight(kK), bias(kK);
    for (auto* all : {&input, &weight, &bias}) {
        for (int64_t i = 0; i < all->size(); ++i) (*all)[i] = random.normal();
    }
    return measure(table, "layer_norm", "6x512", "Gvalue/s", kStripRows * kK, nullptr,
                   [&] { table.layer_norm(input.data(), kStripRows, kK, weight.data(), bias.data(), out.data()); });
}

// One head of base, all keys, half of the queries as a thread has them.
Timing bench_attention(const k::KernelTable& table, bool exact, PeakProbe peak) {
    constexpr int64_t kKeys = 1500, kStride = 512;
    const int64_t n_queries = rows_of(table) / 2;
    Random random(1);
    Guarded<float> q(n_queries * kStride), key(kKeys * kStride), value(kKeys * kStride), out(n_queries * kStride);
    for (auto* all : {&q, &key, &value}) {
        for (int64_t i = 0; i < all->size(); ++i) (*all)[i] = random.normal();
    }
    Guarded<float> scratch(static_cast<int64_t>(k::attention_scratch_floats(kKeys)));
    return measure(table, exact ? "attention exact" : "attention", std::to_string(n_queries) + "x1500x64", "GOP/s",
                   4.0 * static_cast<double>(n_queries * kKeys * k::kHeadSize), peak, [&] {
                       table.attention(
                           {q.data(), kStride, key.data(), kStride, value.data(), kStride, n_queries, kKeys}, exact,
                           out.data(), kStride, scratch.data());
                   });
}

}  // namespace

std::vector<Timing> bench(const k::KernelTable& table) {
    const Peak* peak = peak_of(table.isa);
    const PeakProbe int8 = peak ? peak->int8 : nullptr, f32 = peak ? peak->f32 : nullptr;
    const PeakProbe bf16 = peak ? peak->bf16 : nullptr;
    std::vector<Timing> timings;
    for (const k::FormatInfo& format : k::kFormats) {
        if (format.bits != 0) timings.push_back(bench_blocks(table, format, int8));
    }
    timings.push_back(bench_floats(table, Format::f32, f32));
    timings.push_back(bench_floats(table, Format::f16, f32));
    timings.push_back(bench_attention(table, false, bf16));
    timings.push_back(bench_attention(table, true, f32));
    timings.push_back(bench_quantize(table));
    for (const k::FormatInfo& format : k::kFormats) {
        if (format.bits != 0) timings.push_back(bench_expand(table, format));
    }
    timings.push_back(bench_layer_norm(table));
    timings.push_back(bench_gelu(table));
    return timings;
}

void print_timing(const Timing& t) {
    std::printf("%-12s %-20s %-14s %9.2f %s", t.isa.c_str(), t.kernel.c_str(), t.shape.c_str(), t.rate, t.unit.c_str());
    if (t.peak > 0) std::printf(", %3.0f %% of the measured peak of %.0f", 100 * t.rate / t.peak, t.peak);
    std::printf("\n");
    std::fflush(stdout);
}

}  // namespace check
