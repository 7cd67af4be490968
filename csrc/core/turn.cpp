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
    // In a child, the thread that forked has the turn as it had it before. Read without the lock: any other thread that
    // held it is not there to write.
    explicit State(const State* before) {
        const bool is_of_parent = before != nullptr && before->forks + 1 == forks;
        if (is_of_parent && before->owner == forking_thread()) owner = before->owner;
    }

    bool is_free() const { return owner == std::thread::id(); }

    const uint64_t forks = n_forks();
    std::mutex mutex;
    std::condition_variable freed;
    std::thread::id owner;
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
    for (;;) {
        State& state = this->state();  // anew each time: should_stop() may run a signal handler that forks
        std::unique_lock<std::mutex> lock(state.mutex);
        if (state.owner == std::this_thread::get_id()) {
            throw Error(
                Status::inference,
                "this thread is in the midst of a computation of this model, and a signal handler or a callback "
                "asks for another one there: note what is wanted and ask for it after the call");
        }
        const auto is_free = [&state] { return state.is_free(); };
        if (!should_stop) state.freed.wait(lock, is_free);
        if (state.freed.wait_for(lock, kBetweenQuestions, is_free)) {
            state.owner = std::this_thread::get_id();
            return Taken(this);
        }
        // Not under the lock: the answer may take its time, or end the thread.
        lock.unlock();
        if (should_stop()) return Taken(nullptr);
    }
}

void Turn::give_back() noexcept {
    State& state = this->state();
    {
        const std::lock_guard<std::mutex> lock(state.mutex);
        state.owner = std::thread::id();
    }
    state.freed.notify_one();
}

}  // namespace whisperq
