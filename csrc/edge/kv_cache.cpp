#include "edge/kv_cache.h"

#include <algorithm>
#include <cstring>

namespace whisperq::edge {
namespace {

using kernels::kHeadSize;
using kernels::kKeyBlock;
using kernels::n_key_blocks;

// Writes n floats as the cache has them.
void store(const kernels::KernelTable& kernels, bool half, const float* values, int64_t n, uint8_t* to) {
    if (half) {
        kernels.float_to_half(values, n, reinterpret_cast<uint16_t*>(to));
    } else {
        std::memcpy(to, values, static_cast<size_t>(n) * sizeof(float));
    }
}

template <class Value>
void spread(const Value* key, int64_t column, uint8_t* to) {
    auto* block = reinterpret_cast<Value*>(to);
    for (int64_t i = 0; i < kHeadSize; ++i) block[i * kKeyBlock + column] = key[i];
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
        blocks_.push_back(page->data());
        pages_.push_back(std::move(page));
    }
}

void SelfCache::put(const kernels::KernelTable& kernels, int64_t layer, int64_t token, const float* key,
                    const float* value) {
    uint8_t* page = pages_[static_cast<size_t>(token / kKeyBlock)]->data();
    const int64_t column = token % kKeyBlock;
    alignas(kCacheLine) uint8_t stored[kHeadSize * sizeof(float)];
    for (int64_t h = 0; h < shape_.n_head; ++h) {
        const CachedHead at = head(layer, h);
        store(kernels, shape_.half, key + h * kHeadSize, kHeadSize, stored);
        if (shape_.half) {
            spread(reinterpret_cast<const uint16_t*>(stored), column, page + at.keys);
        } else {
            spread(reinterpret_cast<const float*>(stored), column, page + at.keys);
        }
        uint8_t* values = page + at.values + static_cast<size_t>(column * kHeadSize) * shape_.value_bytes();
        store(kernels, shape_.half, value + h * kHeadSize, kHeadSize, values);
    }
}

CachedHead SelfCache::head(int64_t layer, int64_t head) const noexcept {
    const size_t keys = static_cast<size_t>(2 * (layer * shape_.n_head + head)) * shape_.block_bytes();
    return {blocks_.data(), keys, keys + shape_.block_bytes()};
}

// ---- AudioCache

AudioCache::AudioCache(const CacheShape& shape, int64_t n_ctx)
    : shape_(shape), n_ctx_(n_ctx), data_(shape.page_bytes() * static_cast<size_t>(n_key_blocks(n_ctx))) {
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
    alignas(kCacheLine) float key_block[kHeadSize * kKeyBlock] = {};
    alignas(kCacheLine) float value_block[kKeyBlock * kHeadSize] = {};
    for (int64_t j = 0; j < n; ++j) {
        spread(keys + j * stride, j, reinterpret_cast<uint8_t*>(key_block));
        std::memcpy(value_block + j * kHeadSize, values + j * stride, kHeadSize * sizeof(float));
    }
    const size_t at = head_offset(layer, head) + static_cast<size_t>(b) * shape_.block_bytes();
    store(kernels, shape_.half, key_block, kHeadSize * kKeyBlock, data_.data() + at);
    store(kernels, shape_.half, value_block, kHeadSize * kKeyBlock,
          data_.data() + at + blocks_.size() * shape_.block_bytes());
}

}  // namespace whisperq::edge
