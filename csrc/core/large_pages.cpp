#include "core/large_pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace whisperq {
namespace {

constexpr size_t kLargePage = size_t{2} << 20;  // of x86 and, where a page has 4 KiB, of ARM

void prefer_large_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t n_bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    (void)madvise(data, n_bytes, MADV_HUGEPAGE);
#endif
}

}  // namespace

// It begins on a large page, or its first and last parts would not lie on any. The last page is a large one, too, where
// that costs no more than a sixteenth in memory that is never used.
AlignedBuffer buffer_on_large_pages(size_t n_bytes) {
    if (n_bytes < kLargePage) return AlignedBuffer(n_bytes);
    AlignedBuffer buffer(n_bytes, kLargePage);
    const size_t whole = n_bytes / kLargePage * kLargePage;
    const size_t unused = (kLargePage - n_bytes % kLargePage) % kLargePage;
    prefer_large_pages(buffer.data(), unused <= n_bytes / 16 ? n_bytes + unused : whole);
    return buffer;
}

}  // namespace whisperq
