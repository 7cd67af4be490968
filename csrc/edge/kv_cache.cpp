#include "edge/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "core/fetch.h"
#include "core/large_pages.h"
#include "kernels/six_bits.h"

namespace whisperq::edge {
namespace {

using kernels::CacheType;
using kernels::kHeadSize;
using kernels::kKeyBlock;
using kernels::n_key_blocks;

constexpr int64_t kBlockValues = kKeyBlock * kHeadSize;

// Writes n floats as a cache of floats has them.
void store(const kernels::KernelTable& kernels, CacheType type, const float* values, int64_t n, uint8_t* to) {
    if (type == CacheType::f16) {
        kernels.float_to_half(values, n, reinterpret_cast<uint16_t*>(to));
    } else {
        std::memcpy(to, values, static_cast<size_t>(n) * sizeof(float));
    }
}

size_t float_bytes(CacheType type) {
    return type == CacheType::f16 ? 2 : 4;
}

template <class Value>
void spread(const Value* key, int64_t column, uint8_t* to) {
    auto* block = reinterpret_cast<Value*>(to);
    for (int64_t i = 0; i < kHeadSize; ++i) block[i * kKeyBlock + column] = key[i];
}

// The codes of a block, row by row.
using CodeRows = int8_t[kKeyBlock][kHeadSize];

// Positions beyond the last token of a block are zero.
struct OfKeys {
    static void put_floats(const float* key, int64_t j, float* block) {
        spread(key, j, reinterpret_cast<uint8_t*>(block));
    }
    static void put_codes(const CodeRows& rows, int8_t* block) {
        for (int64_t i = 0; i < kHeadSize; i += 4) {
            for (int64_t j = 0; j < kKeyBlock; ++j) std::memcpy(block + kernels::key_code_at(j, i), rows[j] + i, 4);
        }
    }
};

struct OfValues {
    static void put_floats(const float* value, int64_t j, float* block) {
        std::memcpy(block + j * kHeadSize, value, kHeadSize * sizeof(float));
    }
    static void put_codes(const CodeRows& rows, int8_t* block) {
        for (int64_t i = 0; i < kHeadSize; i += 16) {
            for (int64_t j = 0; j < kKeyBlock; j += 4) put_16_of_4(rows + j, i, block + kernels::value_code_at(j, i));
        }
    }

  private:
    // Values i to i + 15 of four tokens.
    static void put_16_of_4(const int8_t (*rows)[kHeadSize], int64_t i, int8_t* to) {
        for (int64_t at = 0; at < 16; ++at) {
            for (int64_t j = 0; j < 4; ++j) to[4 * at + j] = rows[j][i + at];
        }
    }
};

template <class Order>
void put_floats(const kernels::KernelTable& kernels, CacheType type, const float* rows, int64_t stride, int64_t n,
                uint8_t* block) {
    alignas(kCacheLine) float floats[kBlockValues] = {};
    for (int64_t j = 0; j < n; ++j) Order::put_floats(rows + j * stride, j, floats);
    store(kernels, type, floats, kBlockValues, block);
}

template <class Order>
void put_codes(const kernels::KernelTable& kernels, CacheType type, const float* rows, int64_t stride, int64_t n,
               uint8_t* block) {
    float scales[kKeyBlock] = {};
    alignas(kCacheLine) CodeRows code_rows = {};
    for (int64_t j = 0; j < n; ++j) {
        kernels.quantize_head(rows + j * stride, kernels::most_code(type), code_rows[j], scales + j);
    }
    alignas(kCacheLine) int8_t codes[kBlockValues];
    Order::put_codes(code_rows, codes);
    if (type == CacheType::int6) {
        for (int64_t i = 0; i < kBlockValues / kernels::kSixBitCodes; ++i) {
            kernels::pack_six_bits(codes + i * kernels::kSixBitCodes, block + i * kernels::kSixBitBytes);
        }
    } else {
        std::memcpy(block, codes, sizeof codes);
    }
    std::memcpy(block + kernels::code_bytes(type), scales, sizeof scales);
}

// Store a block of n rows of one head, `stride` floats apart.
template <class Order>
void put(const kernels::KernelTable& kernels, CacheType type, const float* rows, int64_t stride, int64_t n,
         uint8_t* block) {
    if (kernels::has_codes(type)) {
        put_codes<Order>(kernels, type, rows, stride, n, block);
    } else {
        put_floats<Order>(kernels, type, rows, stride, n, block);
    }
}

}  // namespace

// ---- SelfCache

SelfCache& SelfCache::operator=(const SelfCache& other) {
    if (this == &other) return *this;
    pages_ = other.pages_;
    blocks_ = other.blocks_;
    n_tokens_ = other.n_tokens_;
    // The page that will be written to next must be one's own; those behind it hold nothing.
    const auto n_full = static_cast<size_t>(n_tokens_ / kKeyBlock);
    pages_.resize(std::min(pages_.size(), n_full + 1));
    blocks_.resize(pages_.size());
    if (pages_.size() > n_full) {
        const Page page = new_page();
        std::memcpy(page->data(), pages_[n_full]->data(), page->size());
        pages_[n_full] = page;
        blocks_[n_full] = page->data();
    }
    return *this;
}

SelfCache::Page SelfCache::new_page() const {
    return std::make_shared<AlignedBuffer>(shape_.page_bytes());
}

void SelfCache::reserve(int64_t n) {
    while (static_cast<int64_t>(pages_.size()) < n_key_blocks(n)) {
        Page page = new_page();
        std::memset(page->data(), 0, page->size());  // what no token has written is multiplied with 0
        pages_.reserve(pages_.size() + 1);           // so that neither list grows without the other
        blocks_.push_back(page->data());
        pages_.push_back(std::move(page));
    }
}

void SelfCache::put(const kernels::KernelTable& kernels, int64_t layer, int64_t head, int64_t token, const float* key,
                    const float* value) {
    uint8_t* page = pages_[static_cast<size_t>(token / kKeyBlock)]->data();
    const int64_t column = token % kKeyBlock;
    const CachedHead at = this->head(layer, head);
    alignas(kCacheLine) uint8_t stored[kHeadSize * sizeof(float)];
    store(kernels, shape_.keys, key, kHeadSize, stored);
    if (shape_.keys == CacheType::f16) {
        spread(reinterpret_cast<const uint16_t*>(stored), column, page + at.keys);
    } else {
        spread(reinterpret_cast<const float*>(stored), column, page + at.keys);
    }
    uint8_t* values = page + at.values + static_cast<size_t>(column * kHeadSize) * float_bytes(shape_.values);
    store(kernels, shape_.values, value, kHeadSize, values);
}

CachedHead SelfCache::head(int64_t layer, int64_t head) const noexcept {
    const size_t keys = static_cast<size_t>(layer * shape_.n_head + head) * shape_.head_bytes();
    return {blocks_.data(), blocks_.data(), keys, keys + shape_.key_bytes()};
}

void SelfCache::fetch(int64_t layer, int64_t head) const noexcept {
    const CachedHead at = this->head(layer, head);
    for (const uint8_t* block : blocks_) fetch_ahead(block + at.keys, shape_.head_bytes());  // values lie behind keys
}

// ---- AudioCache

AudioCache::AudioCache(const CacheShape& shape, int64_t n_ctx)
    : shape_(shape), n_ctx_(n_ctx), data_(buffer_on_large_pages(shape.n_bytes(n_ctx))) {
    for (size_t b = 0; b < static_cast<size_t>(n_key_blocks(n_ctx)); ++b) {
        key_blocks_.push_back(data_.data() + b * shape.key_bytes());
        value_blocks_.push_back(data_.data() + b * shape.value_bytes());
    }
}

size_t AudioCache::head_offset(int64_t layer, int64_t head) const noexcept {
    return static_cast<size_t>(layer * shape_.n_head + head) * n_blocks() * shape_.head_bytes();
}

CachedHead AudioCache::head(int64_t layer, int64_t head) const noexcept {
    const size_t keys = head_offset(layer, head);
    return {key_blocks_.data(), value_blocks_.data(), keys, keys + n_blocks() * shape_.key_bytes()};
}

void AudioCache::take_from(int64_t b, const AudioCache& other) {
    const auto n_own = static_cast<size_t>(b);
    const size_t n_taken = n_blocks() - n_own;
    const auto copy = [&](size_t at, size_t n_bytes) { std::memcpy(data() + at, other.data() + at, n_bytes); };
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t head = 0; head < shape_.n_head; ++head) {
            const size_t keys = head_offset(layer, head), values = keys + n_blocks() * shape_.key_bytes();
            copy(keys + n_own * shape_.key_bytes(), n_taken * shape_.key_bytes());
            copy(values + n_own * shape_.value_bytes(), n_taken * shape_.value_bytes());
        }
    }
}

void AudioCache::put_block(const kernels::KernelTable& kernels, int64_t layer, int64_t head, int64_t b,
                           const float* keys, const float* values, int64_t stride) {
    const int64_t n = std::min(kKeyBlock, n_ctx_ - b * kKeyBlock);
    const auto block = static_cast<size_t>(b);
    uint8_t* of_head = data_.data() + head_offset(layer, head);
    edge::put<OfKeys>(kernels, shape_.keys, keys, stride, n, of_head + block * shape_.key_bytes());
    edge::put<OfValues>(kernels, shape_.values, values, stride, n,
                        of_head + n_blocks() * shape_.key_bytes() + block * shape_.value_bytes());
}

}  // namespace whisperq::edge
