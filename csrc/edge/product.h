// Products y = x W' + b on all threads: the loops around the kernels' strips and tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "core/aligned.h"
#include "edge/machine.h"
#include "edge/weights.h"
#include "kernels/kernels.h"

namespace whisperq::edge {

// A view of rows of floats, `stride` apart (less than `k` where windows overlap).
struct Rows {
    const float* data;
    int64_t m;
    int64_t stride;
};

// A product. Several that share their input are given together, so that it is quantised once.
struct Product {
    const Linear* linear;
    float* out;                  // [m][n]
    kernels::Epilogue epilogue;  // bias aside, which is the linear's
};

// Return the memory that multiply() of m rows reserves. `packed` and `out` need not be there yet.
MachineNeeds product_needs(const kernels::KernelTable& kernels, int64_t m, bool has_norm,
                           const std::vector<Product>& products);

// Compute the products of an input. `norm`, if there is one, is applied to each input row first. All of the linears
// have the same k.
void multiply(Machine& machine, const Rows& input, const LayerNormWeights* norm, const std::vector<Product>& products);

// Return the floats that lie between the two products of an MLP, and the memory that the products need.
int64_t mlp_floats(const MlpWeights& weights, int64_t m);
MachineNeeds mlp_needs(const kernels::KernelTable& kernels, const MlpWeights& weights, int64_t m);

// Compute x += mlp(norm(x)) for m rows. `hidden` is grown to hold the floats between the two products.
void apply_mlp(Machine& machine, const MlpWeights& weights, int64_t m, float* x, AlignedBuffer& hidden);

// Apply layer norm to m rows, in place.
void normalize(Machine& machine, const LayerNormWeights& norm, int64_t m, float* x);

}  // namespace whisperq::edge
