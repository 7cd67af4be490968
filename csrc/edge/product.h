// y = x W' + b on all threads: the loops around the kernels' strips and tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "core/aligned.h"
#include "edge/machine.h"
#include "edge/weights.h"
#include "kernels/kernels.h"

namespace whisperq::edge {

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

// What multiply() of m rows needs, which it reserves itself. `packed` and `out` need not be there yet.
MachineNeeds product_needs(const kernels::KernelTable& kernels, int64_t m, bool has_norm,
                           const std::vector<Product>& products);

// `norm`, if there is one, is applied to each input row first. All of the linears have the same k.
void multiply(Machine& machine, const Rows& input, const LayerNormWeights* norm, const std::vector<Product>& products);

// The floats that lie between the two products of an MLP, and what the products need.
int64_t mlp_floats(const MlpWeights& weights, int64_t m);
MachineNeeds mlp_needs(const kernels::KernelTable& kernels, const MlpWeights& weights, int64_t m);

// x += mlp(norm(x)) for m rows; `hidden` is grown to hold what lies between the two products.
void apply_mlp(Machine& machine, const MlpWeights& weights, int64_t m, float* x, AlignedBuffer& hidden);

// Layer norm of m rows, in place.
void normalize(Machine& machine, const LayerNormWeights& norm, int64_t m, float* x);

}  // namespace whisperq::edge
