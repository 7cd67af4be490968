#include "core/large_pages.h"

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace whisperq {

void prefer_large_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t n_bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t kPage = 4096;
    const auto begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
    const auto end = (reinterpret_cast<uintptr_t>(data) + n_bytes) / kPage * kPage;
    if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace whisperq
