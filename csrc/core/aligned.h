// Memory that starts on a cache line, for everything that vector loads touch.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <utility>

namespace whisperq {

inline constexpr size_t kCacheLine = 64;  // also the widest vector

// Owns `size()` bytes, aligned to `alignment` (kCacheLine, or a power of two above it) and not initialised. The
// allocation is a multiple of that, so that a whole vector that begins inside may be read or written. Empty after a
// move, and when made with no bytes (data() is then null). Throws std::bad_alloc.
class AlignedBuffer {
  public:
    AlignedBuffer() = default;
    explicit AlignedBuffer(size_t n_bytes, size_t alignment = kCacheLine)
        : data_(allocate(n_bytes, alignment), Free{alignment}), size_(n_bytes) {}
    AlignedBuffer(AlignedBuffer&& other) noexcept : data_(std::move(other.data_)), size_(other.size_) {
        other.size_ = 0;
    }
    // Its size is never that of other data, so that a fork() in the midst of this leaves the child a buffer to go on
    // with.
    AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
        size_ = 0;
        std::atomic_thread_fence(std::memory_order_release);
        data_ = std::move(other.data_);
        std::atomic_thread_fence(std::memory_order_release);
        size_ = other.size_;
        other.size_ = 0;
        return *this;
    }

    uint8_t* data() noexcept { return data_.get(); }
    const uint8_t* data() const noexcept { return data_.get(); }
    float* floats() noexcept { return reinterpret_cast<float*>(data_.get()); }
    const float* floats() const noexcept { return reinterpret_cast<const float*>(data_.get()); }
    size_t size() const noexcept { return size_; }

  private:
    struct Free {
        size_t alignment;
        Free() noexcept : alignment(kCacheLine) {}
        explicit Free(size_t given) noexcept : alignment(given) {}
        void operator()(uint8_t* data) const noexcept { ::operator delete (data, std::align_val_t{alignment}); }
    };

    static uint8_t* allocate(size_t n_bytes, size_t alignment) {
        if (n_bytes == 0) return nullptr;
        if (n_bytes > std::numeric_limits<size_t>::max() - alignment) throw std::bad_alloc();
        const size_t whole = (n_bytes + alignment - 1) / alignment * alignment;
        return static_cast<uint8_t*>(::operator new (whole, std::align_val_t{alignment}));
    }

    std::unique_ptr<uint8_t, Free> data_;
    size_t size_ = 0;
};

}  // namespace whisperq
