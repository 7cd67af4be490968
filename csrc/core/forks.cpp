#include "core/forks.h"

#include <atomic>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace whisperq {
namespace {

std::atomic<uint64_t> forks{0};
std::thread::id forked_by;  // written while the child has no other thread

#if !defined(_WIN32)
const int fork_handler = pthread_atfork(nullptr, nullptr, [] {
    forked_by = std::this_thread::get_id();
    forks.fetch_add(1, std::memory_order_relaxed);
});
#endif

}  // namespace

uint64_t n_forks() noexcept {
    return forks.load(std::memory_order_relaxed);
}

std::thread::id forking_thread() noexcept {
    return forked_by;
}

}  // namespace whisperq
