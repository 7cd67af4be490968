// What strips of quantised inputs say, whatever the order of their bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "checker.h"
#include "kernels/pack.h"

namespace check {

// What strips say, without knowing the order of their bytes: a product with the identity (weights of code 1 and scale
// 1) gives the codes times their scales, every other term being an exact 0.
class StripReader {
  public:
    explicit StripReader(const k::KernelTable& table) : table_(table) {}

    // values[kStripRows][n_values]: what all rows of the strip were rounded to.
    std::vector<double> read(const uint8_t* strip, int64_t n_values) {
        if (n_values != n_values_) expand_identity(n_values);
        std::vector<float> out(static_cast<size_t>(kStripRows * n_values));
        for (int64_t t = 0; t < n_values / kTileColumns; t += table_.tiles_per_call) {
            const int64_t n_tiles = std::min(table_.tiles_per_call, n_values / kTileColumns - t);
            table_.multiply_strip(strip, identity_->data() + t * tile_bytes(), n_tiles, n_values, false, kStripRows,
                                  n_tiles * kTileColumns, out.data() + t * kTileColumns, n_values, {});
        }
        return {out.begin(), out.end()};
    }

  private:
    int64_t tile_bytes() const { return static_cast<int64_t>(k::expanded_bytes(n_values_)); }

    void expand_identity(int64_t n_values) {
        const k::FormatInfo& q8_0 = k::info(Format::q8_0);
        const int64_t n_blocks = n_values / kBlock;
        std::vector<uint8_t> rows(static_cast<size_t>(n_values * n_blocks * q8_0.ggml_bytes));
        for (int64_t i = 0; i < n_values; ++i) {
            uint8_t* block = rows.data() + (i * n_blocks + i / kBlock) * q8_0.ggml_bytes;
            block[1] = 0x3c;  // 1.0
            block[2 + i % kBlock] = 1;
        }
        Guarded<uint8_t> packed(static_cast<int64_t>(k::packed_bytes(q8_0.format, n_values, n_values)));
        k::pack_rows(q8_0.format, rows.data(), 0, n_values, n_values, packed.data());
        n_values_ = n_values;
        identity_ = std::make_unique<Guarded<uint8_t>>(n_values / kTileColumns * tile_bytes());
        for (int64_t t = 0; t < n_values / kTileColumns; ++t) {
            table_.expand_tile(q8_0.format,
                               packed.data() + t * static_cast<int64_t>(k::tile_bytes(q8_0.format, n_values)), n_values,
                               identity_->data() + t * tile_bytes());
        }
    }

    const k::KernelTable& table_;
    int64_t n_values_ = 0;
    std::unique_ptr<Guarded<uint8_t>> identity_;
};

}  // namespace check
