// Threads that are started once and share the tasks of one computation after another.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace whisperq {

// Refers to a callable (int64_t task, int worker), without owning it: it must outlive the run() that it is given to.
class Task {
  public:
    template <class F, class = std::enable_if_t<!std::is_same_v<std::decay_t<F>, Task>>>
    Task(F&& callable) noexcept  // NOLINT(google-explicit-constructor): a lambda is given to run() as it is
        : object_(const_cast<void*>(static_cast<const void*>(std::addressof(callable)))),
          call_([](void* object, int64_t task, int worker) {
              (*static_cast<std::remove_reference_t<F>*>(object))(task, worker);
          }) {}

    void operator()(int64_t task, int worker) const { call_(object_, task, worker); }

  private:
    void* object_;
    void (*call_)(void*, int64_t, int);
};

// A fixed number of workers, of which the thread that calls run() is one. The other threads start with the first run()
// that has more than one task, wait for the next one by spinning for some microseconds, and sleep after that.
//
//   ThreadPool pool(usable_cpus());
//   pool.run(n_rows, [&](int64_t row, int worker) { compute(row, scratch[worker]); });
//
// After a fork() the child starts threads of its own when it first needs them, whatever the parent was doing.
class ThreadPool {
  public:
    static constexpr int kMostThreads = 1024;

    // `n_threads` counts as the nearest number from 1 to kMostThreads.
    explicit ThreadPool(int n_threads);
    // Joins the threads. No run() may be in progress.
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const noexcept { return size_; }

    // Calls task(i, worker) once for each i in [0, n_tasks), in rising order but side by side; `worker` is in
    // [0, size()) and no two calls that overlap have the same. Returns when all are done. What a task throws reaches
    // the caller (of several, one), and tasks that were not begun by then are left out.
    //
    // Calls from several threads take turns. From inside a task of the same pool the tasks run inline, as the same
    // worker. Where the system gives no more threads, it works with those that there are.
    void run(int64_t n_tasks, const Task& task);

    // The same, but each worker has a share of its own, the `worker`-th of size() even parts of [0, n_tasks), and takes
    // from others' shares only when nothing is left in it. What a worker wrote in one call is thus most likely what it
    // reads in the next, so that it is still in its cache.
    void run_shares(int64_t n_tasks, const Task& task);

    // Joins the threads; the next run() starts them again. Waits for a run() that is in progress, so it must not be
    // called from inside a task.
    void rest();

  private:
    struct Crew;
    Crew& crew();

    const int size_;
    std::atomic<Crew*> crew_{nullptr};
};

// The process's pool of this size, for work that no object of its own stands for. It lives for ever: nothing is torn
// down under a thread that still computes while the process ends.
ThreadPool& shared_pool(int n_threads);

// Where share `i` of `n_shares` even parts of [0, n) begins, and share i - 1 ends.
constexpr int64_t share_begin(int64_t n, int64_t n_shares, int64_t i) {
    return n * i / n_shares;
}

// rest() for all shared pools, so that the process can end without a thread of ours.
void rest_shared_pools();

}  // namespace whisperq
