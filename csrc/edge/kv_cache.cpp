#include "edge/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "core/fetch.h"
#include "core/large_pages.h"

namespace whisperq::edge {
namespace {

using kernels::CacheType;
using kernels::kHeadSize;
using kernels::kKeyBlock;
using kernels::n_key_blocks;

// Writes n floats as a cache of floats has them.
void store(const kernels::KernelTable& kernels, CacheType type, const float* values, int64_t n, uint8_t* to) {
    if (type == CacheType::f16) {
        kernels.float_to_half(values, n, reinterpret_cast<uint16_t*>(to));
    } else {
        std::memcpy(to, values, static_cast<size_t>(n) * sizeof(float));
    }
}

size_t value_bytes(CacheType type) {
    return type == CacheType::f16 ? 2 : 4;
}

template <class Value>
void spread(const Value* key, int64_t column, uint8_t* to) {
    auto* block = reinterpret_cast<Value*>(to);
    for (int64_t i = 0; i < kHeadSize; ++i) block[i * kKeyBlock + column] = key[i];
}

// What a block lacks of tokens is 0.
void put_floats(const kernels::KernelTable& kernels, CacheType type, const float* keys, const float* values,
                int64_t stride, int64_t n, uint8_t* key_block, uint8_t* value_block) {
    alignas(kCacheLine) float key_floats[kHeadSize * kKeyBlock] = {};
    alignas(kCacheLine) float value_floats[kKeyBlock * kHeadSize] = {};
    for (int64_t j = 0; j < n; ++j) {
        spread(keys + j * stride, j, reinterpret_cast<uint8_t*>(key_floats));
        std::memcpy(value_floats + j * kHeadSize, values + j * stride, kHeadSize * sizeof(float));
    }
    store(kernels, type, key_floats, kHeadSize * kKeyBlock, key_block);
    store(kernels, type, value_floats, kHeadSize * kKeyBlock, value_block);
}

void put_codes(const kernels::KernelTable& kernels, const float* keys, const float* values, int64_t stride, int64_t n,
               uint8_t* key_block, uint8_t* value_block) {
    constexpr int64_t kCodes = kKeyBlock * kHeadSize, kGroup = 4;
    float key_scales[kKeyBlock] = {}, value_scales[kKeyBlock] = {};
    int8_t codes[kHeadSize];
    std::memset(key_block, 0, kCodes);
    std::memset(value_block, 0, kCodes);
    for (int64_t j = 0; j < n; ++j) {
        kernels.quantize_head(keys + j * stride, codes, key_scales + j);
        for (int64_t g = 0; g < kHeadSize / kGroup; ++g) {
            std::memcpy(key_block + (g * kKeyBlock + j) * kGroup, codes + g * kGroup, kGroup);
        }
        kernels.quantize_head(values + j * stride, codes, value_scales + j);
        for (int64_t i = 0; i < kHeadSize; ++i) {
            value_block[kernels::value_code_at(j, i)] = static_cast<uint8_t>(codes[i]);
        }
    }
    std::memcpy(key_block + kCodes, key_scales, sizeof key_scales);
    std::memcpy(value_block + kCodes, value_scales, sizeof value_scales);
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
    store(kernels, shape_.type, key, kHeadSize, stored);
    if (shape_.type == CacheType::f16) {
        spread(reinterpret_cast<const uint16_t*>(stored), column, page + at.keys);
    } else {
        spread(reinterpret_cast<const float*>(stored), column, page + at.keys);
    }
    uint8_t* values = page + at.values + static_cast<size_t>(column * kHeadSize) * value_bytes(shape_.type);
    store(kernels, shape_.type, value, kHeadSize, values);
}

CachedHead SelfCache::head(int64_t layer, int64_t head) const noexcept {
    const size_t keys = static_cast<size_t>(2 * (layer * shape_.n_head + head)) * shape_.block_bytes();
    return {blocks_.data(), keys, keys + shape_.block_bytes()};
}

void SelfCache::fetch(int64_t layer, int64_t head) const noexcept {
    const CachedHead at = this->head(layer, head);
    for (const uint8_t* block : blocks_)
        fetch_ahead(block + at.keys, 2 * shape_.block_bytes());  // values lie behind keys
}

// ---- AudioCache

AudioCache::AudioCache(const CacheShape& shape, int64_t n_ctx)
    : shape_(shape), n_ctx_(n_ctx), data_(buffer_on_large_pages(shape.n_bytes(n_ctx))) {
    for (int64_t b = 0; b < n_key_blocks(n_ctx); ++b) {
        blocks_.push_back(data_.data() + static_cast<size_t>(b) * shape.block_bytes());
    }
}

size_t AudioCache::head_offset(int64_t layer, int64_t head) const noexcept {
    return static_cast<size_t>(2 * (layer * shape_.n_head + head)) * blocks_.size() * shape_.block_bytes();
}

CachedHead AudioCache::head(int64_t layer, int64_t head) const noexcept {
    const size_t keys = head_offset(layer, head);
    return {blocks_.data(), keys, keys + blocks_.size() * shape_.block_bytes()};
}

void AudioCache::put_block(const kernels::KernelTable& kernels, int64_t layer, int64_t head, int64_t b,
                           const float* keys, const float* values, int64_t stride) {
    const int64_t n = std::min(kKeyBlock, n_ctx_ - b * kKeyBlock);
    uint8_t* key_block = data_.data() + head_offset(layer, head) + static_cast<size_t>(b) * shape_.block_bytes();
    uint8_t* value_block = key_block + blocks_.size() * shape_.block_bytes();
    if (shape_.type == CacheType::int8) {
        put_codes(kernels, keys, values, stride, n, key_block, value_block);
    } else {
        put_floats(kernels, shape_.type, keys, values, stride, n, key_block, value_block);
    }
}

}  // namespace whisperq::edge
