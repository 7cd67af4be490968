// Fewer, larger pages for what is read from end to end again and again.
#pragma once

#include <cstddef>

#include "core/aligned.h"

namespace whisperq {

// A buffer that the system is asked to back with large pages, where it has such and the buffer fills some: reading what
// no cache holds is quicker then, since addresses need not be looked up so often. Throws std::bad_alloc.
AlignedBuffer buffer_on_large_pages(size_t n_bytes);

}  // namespace whisperq
