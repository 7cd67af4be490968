#include "core/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "core/aligned.h"
#include "core/cpu_count.h"
#include "core/forks.h"

#if !defined(_WIN32)
#include <signal.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace whisperq {
namespace {

using Clock = std::chrono::steady_clock;

// Covers the few microseconds between two steps of an encoder layer, where waking a sleeper would cost more than that,
// and no more: an idle pool burns nothing.
constexpr std::chrono::microseconds kSpin{30};
constexpr int kLooksPerClock = 32;

void relax() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");  // `yield` is a no-op on most cores; this waits for about as long as x86's pause
#else
    std::this_thread::yield();
#endif
}

// Whether `is_ready` came true within `limit`.
template <class F>
bool spin_until(std::chrono::microseconds limit, const F& is_ready) {
    if (is_ready()) return true;
    if (limit.count() == 0) return false;
    const Clock::time_point end = Clock::now() + limit;
    do {
        for (int i = 0; i < kLooksPerClock; ++i) {
            if (is_ready()) return true;
            relax();
        }
    } while (Clock::now() < end);
    return false;
}

// Signals are for the program's own threads: a handler that runs here would not interrupt what they wait for.
class SignalsBlocked {
#if !defined(_WIN32)
  public:
    SignalsBlocked() {
        sigset_t blocked;
        sigfillset(&blocked);
        for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&blocked, fault);
        pthread_sigmask(SIG_SETMASK, &blocked, &before_);
    }
    ~SignalsBlocked() {
        pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;

  private:
    sigset_t before_;
#endif
};

}  // namespace

// The threads of one process. All of it is left behind, as it is, in a child: locks may be held for ever there.
//
// `job_` says in one word which job there is, whether it may be joined, and how many threads have joined it:
//
//     63 ....... 17 | 16   | 15 .. 0
//     number        | open | joined
//
// A thread joins by counting itself in while the job is open. The caller takes tasks like all others, closes the job
// when none is left, and waits for those who joined. It never waits for one that did not wake up in time, which is what
// makes a busy machine no slower than one thread alone.
struct ThreadPool::Crew {
  public:
    explicit Crew(int n_threads)
        : n_threads_(n_threads),
          spin_(n_threads <= usable_cpus() ? kSpin : kSpin * 0),
          shares_(static_cast<size_t>(n_threads)) {}
    ~Crew() { rest(); }

    bool is_ours() const noexcept { return forks_ == n_forks(); }

    void run(int64_t n_tasks, int n_shares, const Task& task) {
        if (const Frame* frame = find_frame()) {
            for (int64_t i = 0; i < n_tasks; ++i) task(i, frame->worker);
            return;
        }
        const std::lock_guard<std::mutex> turn(turn_);
        const FrameGuard frame(this, 0);
        if (n_tasks == 1 || n_threads_ == 1) {
            for (int64_t i = 0; i < n_tasks; ++i) task(i, 0);
            return;
        }
        if (threads_.empty()) start();
        open(n_tasks, n_shares, task);
        take_tasks(0);
        close();
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    }

    void rest() {
        const std::lock_guard<std::mutex> turn(turn_);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            is_resting_.store(true, std::memory_order_seq_cst);
        }
        wake_.notify_all();
        for (std::thread& thread : threads_) thread.join();
        threads_.clear();
        is_resting_.store(false, std::memory_order_relaxed);
    }

  private:
    static constexpr uint64_t kJoined = 0xffff, kOpen = 0x10000, kNext = 0x20000;

    // Which crews this thread is at work for: one, unless pools are nested.
    struct Frame {
        const Crew* crew;
        int worker;
        const Frame* outer;
    };
    static thread_local const Frame* top_frame;

    class FrameGuard {
      public:
        FrameGuard(const Crew* crew, int worker) : frame_{crew, worker, top_frame} { top_frame = &frame_; }
        ~FrameGuard() { top_frame = frame_.outer; }
        FrameGuard(const FrameGuard&) = delete;
        FrameGuard& operator=(const FrameGuard&) = delete;

      private:
        Frame frame_;
    };

    const Frame* find_frame() const noexcept {
        const Frame* frame = top_frame;
        while (frame != nullptr && frame->crew != this) frame = frame->outer;
        return frame;
    }

    void start() {
        [[maybe_unused]] const SignalsBlocked blocked;
        threads_.reserve(static_cast<size_t>(n_threads_ - 1));
        try {
            for (int worker = 1; worker < n_threads_; ++worker) {
                threads_.emplace_back([this, worker, seen = job_.load()] { work(worker, seen); });
            }
        } catch (const std::system_error&) {
            // No more to be had; the tasks do not mind how many take them.
        }
    }

    // ---- the caller's side

    void open(int64_t n_tasks, int n_shares, const Task& task) {
        task_ = &task;
        n_shares_ = n_shares;
        for (int i = 0; i < n_shares; ++i) {
            Share& share = shares_[static_cast<size_t>(i)];
            share.next.store(share_begin(n_tasks, n_shares, i), std::memory_order_relaxed);
            share.end = share_begin(n_tasks, n_shares, i + 1);
        }
        job_.store((job_.load(std::memory_order_relaxed) & ~(kNext - 1)) + kNext + kOpen, std::memory_order_seq_cst);
        // A thread counts itself as asleep before it looks at job_ for the last time: one of the two sees the other.
        const int64_t n_asleep = n_asleep_.load(std::memory_order_seq_cst);
        if (n_asleep == 0) return;
        { const std::lock_guard<std::mutex> lock(mutex_); }
        for (int64_t i = 0; i < std::min(n_asleep, n_tasks - 1); ++i) wake_.notify_one();
    }

    void close() {
        job_.fetch_and(~kOpen, std::memory_order_acq_rel);
        const auto all_left = [this] { return (job_.load(std::memory_order_acquire) & kJoined) == 0; };
        if (spin_until(spin_, all_left)) return;
        std::unique_lock<std::mutex> lock(mutex_);
        left_.wait(lock, all_left);
    }

    // ---- the threads' side

    // `seen`: the job that was there when the thread was started; the next one is for it.
    void work(int worker, uint64_t seen) {
        const FrameGuard frame(this, worker);
        for (;;) {
            const auto is_called = [this, &seen] {
                return is_new(job_.load(std::memory_order_seq_cst), seen) ||
                       is_resting_.load(std::memory_order_seq_cst);
            };
            if (!spin_until(spin_, is_called)) sleep_until(is_called);
            if (is_resting_.load(std::memory_order_seq_cst)) return;
            if (!join(seen)) continue;
            take_tasks(worker);
            leave();
        }
    }

    static bool is_new(uint64_t job, uint64_t seen) noexcept {
        return (job & kOpen) != 0 && (job & ~(kNext - 1)) != (seen & ~(kNext - 1));
    }

    template <class F>
    void sleep_until(const F& is_called) {
        std::unique_lock<std::mutex> lock(mutex_);
        n_asleep_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, is_called);
        n_asleep_.fetch_sub(1, std::memory_order_relaxed);
    }

    bool join(uint64_t& seen) noexcept {
        uint64_t job = job_.load(std::memory_order_relaxed);
        while (is_new(job, seen)) {
            if (job_.compare_exchange_weak(job, job + 1, std::memory_order_acq_rel, std::memory_order_relaxed)) {
                seen = job;
                return true;
            }
        }
        return false;
    }

    void leave() noexcept {
        const uint64_t before = job_.fetch_sub(1, std::memory_order_acq_rel);
        if ((before & kOpen) != 0 || (before & kJoined) != 1) return;
        { const std::lock_guard<std::mutex> lock(mutex_); }
        left_.notify_one();
    }

    // ---- both

    // Of [next, end), on a cache line of its own: it is written with every task.
    struct alignas(kCacheLine) Share {
        std::atomic<int64_t> next{0};
        int64_t end = 0;
    };

    void take_tasks(int worker) noexcept {
        for (int i = 0; i < n_shares_; ++i) take_from(shares_[static_cast<size_t>((worker + i) % n_shares_)], worker);
    }

    void take_from(Share& share, int worker) noexcept {
        for (;;) {
            const int64_t i = share.next.fetch_add(1, std::memory_order_relaxed);
            if (i >= share.end) return;
            try {
                (*task_)(i, worker);
            } catch (...) {
                const std::lock_guard<std::mutex> lock(mutex_);
                error_ = std::current_exception();
                for (int other = 0; other < n_shares_; ++other) {
                    Share& left_out = shares_[static_cast<size_t>(other)];
                    left_out.next.store(left_out.end, std::memory_order_relaxed);
                }
            }
        }
    }

    const int n_threads_;
    const std::chrono::microseconds spin_;
    const uint64_t forks_ = n_forks();
    std::mutex turn_;  // held by the run() that is in progress
    std::vector<std::thread> threads_;

    // Written by the caller while the job is closed and nobody is in it.
    const Task* task_ = nullptr;
    int n_shares_ = 0;
    std::vector<Share> shares_;  // one, or one a worker, is in use
    std::exception_ptr error_;

    alignas(kCacheLine) std::atomic<uint64_t> job_{0};  // what waiting threads look at
    alignas(kCacheLine) std::atomic<bool> is_resting_{false};
    std::atomic<int64_t> n_asleep_{0};
    std::mutex mutex_;
    std::condition_variable wake_, left_;
};

thread_local const ThreadPool::Crew::Frame* ThreadPool::Crew::top_frame = nullptr;

namespace {

int clamped(int n_threads) {
    return std::clamp(n_threads, 1, ThreadPool::kMostThreads);
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) : size_(clamped(n_threads)) {}

ThreadPool::~ThreadPool() {
    const Crew* crew = crew_.load(std::memory_order_acquire);
    if (crew != nullptr && crew->is_ours()) delete crew;
}

ThreadPool::Crew& ThreadPool::crew() {
    Crew* crew = crew_.load(std::memory_order_acquire);
    if (crew != nullptr && crew->is_ours()) return *crew;
    auto fresh = std::make_unique<Crew>(size_);
    if (crew_.compare_exchange_strong(crew, fresh.get(), std::memory_order_acq_rel)) return *fresh.release();
    return *crew;  // another thread was first
}

void ThreadPool::run(int64_t n_tasks, const Task& task) {
    if (n_tasks > 0) crew().run(n_tasks, 1, task);
}

void ThreadPool::run_shares(int64_t n_tasks, const Task& task) {
    if (n_tasks > 0) crew().run(n_tasks, size_, task);
}

void ThreadPool::rest() {
    Crew* crew = crew_.load(std::memory_order_acquire);
    if (crew != nullptr && crew->is_ours()) crew->rest();
}

namespace {

struct SharedPools {
    std::mutex mutex;
    std::map<int, ThreadPool> by_size;  // by ThreadPool::size(), so that no two pools have the same threads
    const uint64_t forks_at_birth = n_forks();
};

// Replaced after a fork like a crew: its lock may have been held by a thread that is not here.
SharedPools& shared_pools() {
    static std::atomic<SharedPools*> current{nullptr};
    SharedPools* pools = current.load(std::memory_order_acquire);
    if (pools != nullptr && pools->forks_at_birth == n_forks()) return *pools;
    auto fresh = std::make_unique<SharedPools>();
    if (current.compare_exchange_strong(pools, fresh.get(), std::memory_order_acq_rel)) return *fresh.release();
    return *pools;
}

}  // namespace

ThreadPool& shared_pool(int n_threads) {
    SharedPools& pools = shared_pools();
    const std::lock_guard<std::mutex> lock(pools.mutex);
    return pools.by_size.try_emplace(clamped(n_threads), n_threads).first->second;
}

void rest_shared_pools() {
    SharedPools& pools = shared_pools();
    const std::lock_guard<std::mutex> lock(pools.mutex);
    for (auto& [size, pool] : pools.by_size) pool.rest();
}

}  // namespace whisperq
