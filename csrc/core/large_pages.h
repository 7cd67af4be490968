// Fewer, larger pages for what is read from end to end again and again.
#pragma once

#include <cstddef>

namespace whisperq {

// Asks the system to back [data, data + n_bytes) with large pages where it can: reading weights that no cache holds is
// a sixth quicker, since their addresses need not be looked up so often. Does nothing where there is no such thing.
void prefer_large_pages(void* data, size_t n_bytes) noexcept;

}  // namespace whisperq
