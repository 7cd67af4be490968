// KV caches: of the tokens of one sequence, which grow, and of one window's audio.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/aligned.h"
#include "kernels/kernels.h"

namespace whisperq::edge {

// A shape that all caches of a model have in common.
struct CacheShape {
    int64_t n_layer;
    int64_t n_head;
    kernels::CacheType keys, values;

    // Return the bytes of one head's keys of kKeyBlock tokens, of its values, and of both.
    size_t key_bytes() const noexcept { return kernels::key_block_bytes(keys); }
    size_t value_bytes() const noexcept { return kernels::key_block_bytes(values); }
    size_t head_bytes() const noexcept { return key_bytes() + value_bytes(); }
    // Return the bytes of keys and values of all layers and heads of kKeyBlock tokens.
    size_t page_bytes() const noexcept { return static_cast<size_t>(n_layer * n_head) * head_bytes(); }
    // Return the same for n tokens, in whole blocks.
    size_t n_bytes(int64_t n) const noexcept { return page_bytes() * static_cast<size_t>(kernels::n_key_blocks(n)); }

    bool operator==(const CacheShape& other) const noexcept {
        return n_layer == other.n_layer && n_head == other.n_head && keys == other.keys && values == other.values;
    }
};

// The place of one head of one layer: block b of the keys is at key_blocks[b] + keys. Block b of the values is at
// value_blocks[b] + values.
struct CachedHead {
    const uint8_t* const* key_blocks;
    const uint8_t* const* value_blocks;
    size_t keys, values;
};

// A cache of one sequence: a list of pages, each of kKeyBlock tokens of all layers. Keys and values are both in f32 or
// both in f16. Copies share full pages, which never change, so that a beam which splits costs one page.
class SelfCache {
  public:
    explicit SelfCache(const CacheShape& shape) : shape_(shape) {}
    SelfCache(const SelfCache&) = delete;
    SelfCache& operator=(const SelfCache& other);

    const CacheShape& shape() const noexcept { return shape_; }
    int64_t n_tokens() const noexcept { return n_tokens_; }
    // Make room for tokens [0, n), whose keys and values can then be put. Throws std::bad_alloc.
    void reserve(int64_t n);
    // Store key and value of one head, kHeadSize floats each, for one token of one layer. Several threads may store
    // different heads at once.
    void put(const kernels::KernelTable& kernels, int64_t layer, int64_t head, int64_t token, const float* key,
             const float* value);
    // Declare that tokens before n are there, in all layers.
    void set_n_tokens(int64_t n) noexcept { n_tokens_ = n; }
    CachedHead head(int64_t layer, int64_t head) const noexcept;
    // Prefetch everything that will be read of head(), which has a piece in every page.
    void fetch(int64_t layer, int64_t head) const noexcept;

  private:
    using Page = std::shared_ptr<AlignedBuffer>;
    Page new_page() const;

    CacheShape shape_;
    int64_t n_tokens_ = 0;
    std::vector<Page> pages_;
    std::vector<const uint8_t*> blocks_;  // of pages_
};

// A cache of a window's audio, in which nothing changes once it is filled. One head of one layer lies in one piece, to
// be read from front to back.
class AudioCache {
  public:
    // Throws std::bad_alloc.
    AudioCache(const CacheShape& shape, int64_t n_ctx);

    const CacheShape& shape() const noexcept { return shape_; }
    int64_t n_ctx() const noexcept { return n_ctx_; }
    size_t n_bytes() const noexcept { return data_.size(); }
    uint8_t* data() noexcept { return data_.data(); }
    const uint8_t* data() const noexcept { return data_.data(); }
    // Store the tokens of block b of one layer. Rows of keys and values lie `stride` floats apart and begin with this
    // block's.
    void put_block(const kernels::KernelTable& kernels, int64_t layer, int64_t head, int64_t b, const float* keys,
                   const float* values, int64_t stride);
    // Take the blocks from b on from another cache of the same shape and length.
    void take_from(int64_t b, const AudioCache& other);
    CachedHead head(int64_t layer, int64_t head) const noexcept;

  private:
    size_t n_blocks() const noexcept { return key_blocks_.size(); }
    // Return where a head's keys begin in data_.
    size_t head_offset(int64_t layer, int64_t head) const noexcept;

    CacheShape shape_;
    int64_t n_ctx_;
    AlignedBuffer data_;
    std::vector<const uint8_t*> key_blocks_, value_blocks_;  // of a head that begins where data_ does
};

}  // namespace whisperq::edge
