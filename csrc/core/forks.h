// Which process of a line of forks this is. What has a lock, or threads, begins anew in a child: there the locks of
// other threads stay taken for ever, and the threads are not there.
#pragma once

#include <cstdint>
#include <thread>

namespace whisperq {

// Forks between the first process and this one.
uint64_t n_forks() noexcept;

// The thread that called the last of them, which is the child's first one.
std::thread::id forking_thread() noexcept;

}  // namespace whisperq
