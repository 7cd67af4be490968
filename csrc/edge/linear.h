// y = x W' + b on all threads: the loops around the kernels' strips and tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "core/aligned.h"
#include "core/thread_pool.h"
#include "edge/weights.h"
#include "kernels/kernels.h"

namespace whisperq::edge {

class ActivationStudy;

// What a computation runs on: the kernels, the threads, and memory that is allocated once and used again by every
// layer.
class Machine {
  public:
    Machine(const kernels::KernelTable& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool) {}

    const kernels::KernelTable& kernels() const noexcept { return kernels_; }
    ThreadPool& pool() noexcept { return pool_; }

    // Of one worker: an expanded panel, a strip's rows, or what attention packs.
    uint8_t* scratch(int worker) noexcept { return scratch_[static_cast<size_t>(worker)].data(); }
    float* scratch_floats(int worker) noexcept { return scratch_[static_cast<size_t>(worker)].floats(); }
    void reserve_scratch(size_t n_bytes);
    // A product's input, quantised, or normalised.
    uint8_t* strips() noexcept { return strips_.data(); }
    const uint8_t* strips() const noexcept { return strips_.data(); }
    void reserve_strips(size_t n_bytes);
    float* rows() noexcept { return rows_.floats(); }
    void reserve_rows(size_t n_floats);
    // What rounds the inputs of products, or null, as it is but for measurements.
    ActivationStudy* study() noexcept { return study_; }
    void set_study(ActivationStudy* study) noexcept { study_ = study; }

  private:
    const kernels::KernelTable& kernels_;
    ThreadPool& pool_;
    std::vector<AlignedBuffer> scratch_;
    AlignedBuffer strips_, rows_;
    ActivationStudy* study_ = nullptr;
};

// Rows of floats, `stride` apart (less than `k` where windows overlap).
struct Rows {
    const float* data;
    int64_t m;
    int64_t stride;
};

// One product. Several that share their input are given together: it is quantised once.
struct Product {
    const Linear* linear;
    float* out;                  // [m][n]
    kernels::Epilogue epilogue;  // bias aside, which is the linear's
};

// `norm`, if there is one, is applied to each input row first. All of the linears have the same k.
void multiply(Machine& machine, const Rows& input, const LayerNormWeights* norm, const std::vector<Product>& products);

// x += mlp(norm(x)) for m rows; `hidden` is grown to hold what lies between the two products.
void apply_mlp(Machine& machine, const MlpWeights& weights, int64_t m, float* x, AlignedBuffer& hidden);

// Layer norm of m rows, in place.
void normalize(Machine& machine, const LayerNormWeights& norm, int64_t m, float* x);

// Makes the buffer hold n_floats, which are not initialised and not kept.
float* reserve_floats(AlignedBuffer& buffer, int64_t n_floats);

}  // namespace whisperq::edge
