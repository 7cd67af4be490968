#include "edge/product.h"

#include <algorithm>

#include "edge/activation_study.h"
#include "kernels/pack.h"

namespace whisperq::edge {
namespace {

using kernels::Format;
using kernels::kStripRows;
using kernels::kTileColumns;

// Tasks are so many that threads which were held up elsewhere do not hold up the others.
constexpr int64_t kTasksPerThread = 4;

// Weights are multiplied as they are packed up to so many strips of input. With more strips it pays to expand them
// first.
constexpr int64_t kStripsFromPacked = kernels::kPackedRows / kStripRows;
// A task then has enough tiles to hide its start, and few enough for every thread to get some. They also have to stay
// in a core's cache where the input takes several passes over them.
constexpr int64_t kFewestPackedTiles = 8, kMostPackedTiles = 32;
// With this many strips, each thread takes the strips that it has quantised or normalised itself, instead of tiles of
// its own. It then expands all tiles, which costs as much as one strip more.
constexpr int64_t kFewestStripsOfThread = 16;
// Strips of so many bytes are multiplied in one pass, from the first-level cache or a little beyond. A second pass over
// the weights costs more than reading some of the input from the second-level cache.
constexpr size_t kNearBytes = 40 * 1024;

bool is_block_format(const Linear& linear) {
    return kernels::info(linear.format).bits != 0;
}

MachineNeeds normalised_needs(int64_t m, int64_t k) {
    MachineNeeds needs;
    needs.row_bytes = static_cast<size_t>(m * k) * sizeof(float);
    return needs;
}

// Return the rows after the norm, in the machine's memory.
Rows normalised(Machine& machine, const Rows& rows, const LayerNormWeights& norm) {
    const auto k = static_cast<int64_t>(norm.weight.size());
    float* to = machine.rows();
    machine.pool().run_shares(ceil_divide(rows.m, kStripRows), [&](int64_t i, int) {
        const int64_t first = i * kStripRows;
        machine.kernels().layer_norm(rows.data + first * rows.stride, std::min(kStripRows, rows.m - first), k,
                                     norm.weight.data(), norm.bias.data(), to + first * k);
    });
    return {to, rows.m, k};
}

// The two forms that products may want of their input: quantised strips, and rows of floats.
struct Forms {
    bool blocks = false, floats = false;
};

Forms forms_of(const std::vector<Product>& products) {
    Forms forms;
    for (const Product& product : products) (is_block_format(*product.linear) ? forms.blocks : forms.floats) = true;
    return forms;
}

// An input in the forms that products want.
class Input {
  public:
    Input(Machine& machine, const Rows& rows, const LayerNormWeights* norm, const std::vector<Product>& products)
        : machine_(machine), rows_(rows), norm_(norm), k_(products.front().linear->k) {
        const Forms forms = forms_of(products);
        if (forms.floats && norm) {
            rows_ = normalised(machine, rows, *norm);
            norm_ = nullptr;
        }
        if (forms.blocks) quantise();
    }

    const Rows& rows() const { return rows_; }
    const uint8_t* strip(int64_t i) const {
        return machine_.strips() + static_cast<size_t>(i) * kernels::strip_bytes(k_);
    }
    int64_t n_strips() const { return ceil_divide(rows_.m, kStripRows); }
    int64_t rows_of_strip(int64_t i) const { return std::min(kStripRows, rows_.m - i * kStripRows); }

  private:
    void quantise() {
        const size_t bytes = kernels::strip_bytes(k_);
        machine_.pool().run_shares(n_strips(), [&](int64_t i, int worker) {
            const float* from = rows_.data + i * kStripRows * rows_.stride;
            int64_t stride = rows_.stride;
            if (norm_) {
                float* normalised = machine_.scratch_floats(worker);
                machine_.kernels().layer_norm(from, rows_of_strip(i), k_, norm_->weight.data(), norm_->bias.data(),
                                              normalised);
                from = normalised;
                stride = k_;
            }
            machine_.kernels().quantize_strip(from, stride, rows_of_strip(i), k_,
                                              machine_.strips() + static_cast<size_t>(i) * bytes);
        });
    }

    Machine& machine_;
    Rows rows_;
    const LayerNormWeights* norm_;
    int64_t k_;
};

// A thread's task: a group of tiles of one product times some of the strips.
struct Part {
    const Product* product;
    bool packed;  // weights as they are, or expanded first
    int64_t first_tile, n_tiles;
    int64_t first_strip, n_strips;

    int64_t first_column() const { return first_tile * kTileColumns; }
    int64_t n_columns() const { return std::min(n_tiles * kTileColumns, product->linear->n - first_column()); }
    const uint8_t* tile(int64_t i) const {
        const Linear& linear = *product->linear;
        return linear.packed.data + static_cast<size_t>(first_tile + i) * kernels::tile_bytes(linear.format, linear.k);
    }
    kernels::Epilogue epilogue(int64_t out_offset) const {
        kernels::Epilogue moved = product->epilogue;
        const float* bias = product->linear->bias_or_null();
        moved.bias = bias ? bias + first_column() : nullptr;
        if (moved.residual) moved.residual += out_offset;
        return moved;
    }
};

// Return whether weights are multiplied as they are packed, which pays with few rows.
bool takes_packed(const Linear& linear, int64_t n_strips) {
    return n_strips <= kStripsFromPacked && linear.format != Format::f32;
}

// Return whether packed weights are multiplied with all strips in one pass.
bool takes_one_pass(const Linear& linear, int64_t n_strips) {
    if (n_strips == 1) return true;
    return is_block_format(linear) && static_cast<size_t>(n_strips) * kernels::strip_bytes(linear.k) <= kNearBytes;
}

int64_t packed_tiles_of_task(const Linear& linear, int64_t n_strips, int64_t n_threads) {
    if (!takes_one_pass(linear, n_strips)) return kFewestPackedTiles;
    const int64_t share = kernels::n_tiles(linear.n) / (kTasksPerThread * n_threads);
    return std::clamp(share, kFewestPackedTiles, kMostPackedTiles);
}

void cut_packed(const Product& product, int64_t n_strips, int64_t n_threads, std::vector<Part>& parts) {
    const int64_t n_tiles = kernels::n_tiles(product.linear->n);
    const int64_t n_at_once = packed_tiles_of_task(*product.linear, n_strips, n_threads);
    for (int64_t tile = 0; tile < n_tiles; tile += n_at_once) {
        parts.push_back({&product, true, tile, std::min(n_at_once, n_tiles - tile), 0, n_strips});
    }
}

// Return the number of groups of strips. Tiles are expanded for each group.
int64_t n_strip_groups(const std::vector<Product>& products, int64_t n_strips, int64_t tiles_per_call,
                       int64_t n_threads) {
    if (n_strips >= kFewestStripsOfThread * n_threads) return n_threads;
    int64_t n_tile_groups = 0;
    for (const Product& product : products) {
        n_tile_groups += ceil_divide(kernels::n_tiles(product.linear->n), tiles_per_call);
    }
    return std::clamp<int64_t>(ceil_divide(kTasksPerThread * n_threads, n_tile_groups), 1, n_strips);
}

void cut_expanded(const Product& product, int64_t first_strip, int64_t n_strips, int64_t tiles_per_call,
                  std::vector<Part>& parts) {
    const int64_t n_tiles = kernels::n_tiles(product.linear->n);
    for (int64_t tile = 0; tile < n_tiles; tile += tiles_per_call) {
        parts.push_back({&product, false, tile, std::min(tiles_per_call, n_tiles - tile), first_strip, n_strips});
    }
}

std::vector<Part> cut(const std::vector<Product>& products, int64_t n_strips, int64_t tiles_per_call,
                      int64_t n_threads) {
    std::vector<Part> parts;
    for (const Product& product : products) {
        if (takes_packed(*product.linear, n_strips)) cut_packed(product, n_strips, n_threads, parts);
    }
    const int64_t n_groups = n_strip_groups(products, n_strips, tiles_per_call, n_threads);
    for (int64_t group = 0; group < n_groups; ++group) {
        const int64_t first = share_begin(n_strips, n_groups, group), end = share_begin(n_strips, n_groups, group + 1);
        for (const Product& product : products) {
            if (takes_packed(*product.linear, n_strips)) continue;
            cut_expanded(product, first, end - first, tiles_per_call, parts);
        }
    }
    return parts;
}

void multiply_packed(const Machine& machine, const Input& input, const Part& part) {
    const Linear& linear = *part.product->linear;
    const Rows& rows = input.rows();
    const int64_t n_at_once = takes_one_pass(linear, input.n_strips()) ? rows.m : kStripRows;
    for (int64_t row = 0; row < rows.m; row += n_at_once) {
        const int64_t n_rows = std::min(n_at_once, rows.m - row), offset = row * linear.n + part.first_column();
        float* out = part.product->out + offset;
        if (is_block_format(linear)) {
            machine.kernels().multiply_packed(linear.format, input.strip(row / kStripRows), part.tile(0), part.n_tiles,
                                              linear.k, n_rows, part.n_columns(), out, linear.n, part.epilogue(offset));
        } else {
            machine.kernels().multiply_half(rows.data + row * rows.stride, rows.stride,
                                            reinterpret_cast<const uint16_t*>(part.tile(0)), part.n_tiles, linear.k,
                                            n_rows, part.n_columns(), out, linear.n, part.epilogue(offset));
        }
    }
}

void multiply_blocks(const Machine& machine, const Input& input, const Part& part, uint8_t* expanded) {
    const Linear& linear = *part.product->linear;
    const size_t tile_bytes = kernels::expanded_bytes(linear.k);
    for (int64_t i = 0; i < part.n_tiles; ++i) {
        machine.kernels().expand_tile(linear.format, part.tile(i), linear.k,
                                      expanded + static_cast<size_t>(i) * tile_bytes);
    }
    const bool has_minimum = kernels::info(linear.format).has_minimum;
    for (int64_t i = part.first_strip; i < part.first_strip + part.n_strips; ++i) {
        const int64_t offset = i * kStripRows * linear.n + part.first_column();
        machine.kernels().multiply_strip(input.strip(i), expanded, part.n_tiles, linear.k, has_minimum,
                                         input.rows_of_strip(i), part.n_columns(), part.product->out + offset, linear.n,
                                         part.epilogue(offset));
    }
}

void multiply_floats(const Machine& machine, const Input& input, const Part& part, uint8_t* scratch) {
    const Linear& linear = *part.product->linear;
    const float* panel = reinterpret_cast<const float*>(part.tile(0));
    if (linear.format == Format::f16) {
        float* expanded = reinterpret_cast<float*>(scratch);
        machine.kernels().half_to_float(reinterpret_cast<const uint16_t*>(part.tile(0)),
                                        part.n_tiles * linear.k * kTileColumns, expanded);
        panel = expanded;
    }
    const Rows& rows = input.rows();
    for (int64_t i = part.first_strip; i < part.first_strip + part.n_strips; ++i) {
        const int64_t row = i * kStripRows;
        const int64_t offset = row * linear.n + part.first_column();
        machine.kernels().multiply_float(rows.data + row * rows.stride, rows.stride, panel, part.n_tiles, linear.k,
                                         input.rows_of_strip(i), part.n_columns(), part.product->out + offset, linear.n,
                                         part.epilogue(offset));
    }
}

void multiply_all(Machine& machine, const Rows& rows, const LayerNormWeights* norm,
                  const std::vector<Product>& products) {
    machine.reserve(product_needs(machine.kernels(), rows.m, norm != nullptr, products));
    const Input input(machine, rows, norm, products);
    const int64_t tiles_per_call = machine.kernels().tiles_per_call;
    const std::vector<Part> parts = cut(products, input.n_strips(), tiles_per_call, machine.pool().size());
    machine.pool().run_shares(static_cast<int64_t>(parts.size()), [&](int64_t i, int worker) {
        const Part& part = parts[static_cast<size_t>(i)];
        if (part.packed) {
            multiply_packed(machine, input, part);
        } else if (is_block_format(*part.product->linear)) {
            multiply_blocks(machine, input, part, machine.scratch(worker));
        } else {
            multiply_floats(machine, input, part, machine.scratch(worker));
        }
    });
}

// Compute each product with the rows that the study gives to its linear.
void multiply_studied(Machine& machine, ActivationStudy& study, const Rows& rows, const LayerNormWeights* norm,
                      const std::vector<Product>& products) {
    Rows input = rows;
    if (norm) {
        machine.reserve(normalised_needs(rows.m, products.front().linear->k));
        input = normalised(machine, rows, *norm);
    }
    for (const Product& product : products) {
        multiply_all(machine, study.seen_by(*product.linear, input, machine.pool()), nullptr, {product});
    }
}

}  // namespace

MachineNeeds product_needs(const kernels::KernelTable& kernels, int64_t m, bool has_norm,
                           const std::vector<Product>& products) {
    const int64_t k = products.front().linear->k;
    const Forms forms = forms_of(products);
    const size_t tile_floats = static_cast<size_t>(k * kTileColumns) * sizeof(float);
    MachineNeeds needs;
    needs.scratch_bytes =
        static_cast<size_t>(kernels.tiles_per_call) * std::max(kernels::expanded_bytes(k), tile_floats);
    if (forms.blocks) {
        const size_t normalised = static_cast<size_t>(kStripRows * k) * sizeof(float);
        needs.scratch_bytes = std::max(needs.scratch_bytes, normalised);
        needs.strip_bytes = static_cast<size_t>(ceil_divide(m, kStripRows)) * kernels::strip_bytes(k);
    }
    if (forms.floats && has_norm) needs.include(normalised_needs(m, k));
    return needs;
}

void multiply(Machine& machine, const Rows& rows, const LayerNormWeights* norm, const std::vector<Product>& products) {
    if (machine.study() != nullptr) {
        multiply_studied(machine, *machine.study(), rows, norm, products);
    } else {
        multiply_all(machine, rows, norm, products);
    }
}

int64_t mlp_floats(const MlpWeights& weights, int64_t m) {
    return m * weights.up.n;
}

MachineNeeds mlp_needs(const kernels::KernelTable& kernels, const MlpWeights& weights, int64_t m) {
    MachineNeeds needs = product_needs(kernels, m, true, {{&weights.up, nullptr, {}}});
    needs.include(product_needs(kernels, m, false, {{&weights.down, nullptr, {}}}));
    return needs;
}

void apply_mlp(Machine& machine, const MlpWeights& weights, int64_t m, float* x, AlignedBuffer& hidden) {
    const int64_t n_state = weights.up.k, n_hidden = weights.up.n;
    float* between = reserve_floats(hidden, mlp_floats(weights, m));
    kernels::Epilogue gelu, add;
    gelu.gelu = true;
    add.residual = x;
    multiply(machine, {x, m, n_state}, &weights.norm, {{&weights.up, between, gelu}});
    multiply(machine, {between, m, n_hidden}, nullptr, {{&weights.down, x, add}});
}

void normalize(Machine& machine, const LayerNormWeights& norm, int64_t m, float* x) {
    const auto n = static_cast<int64_t>(norm.weight.size());
    machine.pool().run_shares(ceil_divide(m, kStripRows), [&](int64_t i, int) {
        const int64_t first = i * kStripRows;
        float* rows = x + first * n;
        machine.kernels().layer_norm(rows, std::min(kStripRows, m - first), n, norm.weight.data(), norm.bias.data(),
                                     rows);
    });
}

}  // namespace whisperq::edge
