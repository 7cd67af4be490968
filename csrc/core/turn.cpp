#include "core/turn.h"

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "core/forks.h"
#include "core/status.h"

namespace whisperq {
namespace {

constexpr std::chrono::milliseconds kBetweenQuestions{20};

}  // namespace

// Of one process. A child leaves it behind as it is: `mutex` may be locked for ever there.
struct Turn::State {
    explicit State(const State* parent) {
        // Read without the lock: who held that, if not the thread that forked, is not there to change it.
        if (parent != nullptr && parent->is_taken && parent->owner == forking_thread()) {
            is_taken = true;
            owner = parent->owner;
        }
    }

    const uint64_t forks = n_forks();
    std::mutex mutex;
    std::condition_variable freed;
    std::thread::id owner;
    bool is_taken = false;
};

Turn::~Turn() {
    const State* state = state_.load(std::memory_order_acquire);
    if (state != nullptr && state->forks == n_forks()) delete state;
}

Turn::State& Turn::state() {
    State* state = state_.load(std::memory_order_acquire);
    if (state != nullptr && state->forks == n_forks()) return *state;
    auto fresh = std::make_unique<State>(state);
    if (state_.compare_exchange_strong(state, fresh.get(), std::memory_order_acq_rel)) return *fresh.release();
    return *state;  // another thread was first
}

Turn::Taken Turn::take(const std::function<bool()>& should_stop) {
    State& state = this->state();
    std::unique_lock<std::mutex> lock(state.mutex);
    if (state.is_taken && state.owner == std::this_thread::get_id()) {
        throw Error(
            Status::inference,
            "this thread is in the midst of a computation of this model, and a signal handler or a callback asks "
            "for another one there: note what is wanted and ask for it after the call");
    }
    while (state.is_taken) {
        if (!should_stop) {
            state.freed.wait(lock);
            continue;
        }
        // Not under the lock: the answer may take its time, or end the thread.
        lock.unlock();
        if (should_stop()) return Taken(nullptr);
        lock.lock();
        if (state.is_taken) state.freed.wait_for(lock, kBetweenQuestions);
    }
    state.is_taken = true;
    state.owner = std::this_thread::get_id();
    return Taken(this);
}

void Turn::give_back() noexcept {
    State& state = this->state();
    {
        const std::lock_guard<std::mutex> lock(state.mutex);
        state.is_taken = false;
    }
    state.freed.notify_one();
}

}  // namespace whisperq
