// check_thread_pool NAME: one property of core/thread_pool, on pools of several sizes. Exit code 0: it holds; else a
// line on stderr says what does not. Built and run by tests/native/test_thread_pool.py.
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/thread_pool.h"

using whisperq::ThreadPool;

namespace {

constexpr int kSizes[] = {1, 2, 3, 8};

#define CHECK(what)                                                         \
    do {                                                                    \
        if (!(what)) {                                                      \
            std::fprintf(stderr, "line %d: not so: %s\n", __LINE__, #what); \
            std::_Exit(1);                                                  \
        }                                                                   \
    } while (false)

void sleep_us(int us) {
    std::this_thread::sleep_for(std::chrono::microseconds(us));
}

double cpu_seconds() {
    timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

int64_t sum_of(ThreadPool& pool, int64_t n) {
    std::atomic<int64_t> sum{0};
    pool.run(n, [&](int64_t i, int) { sum += i; });
    return sum;
}

// How many of the workers get a task when all are given time to wake up.
int workers_seen(ThreadPool& pool) {
    std::vector<std::atomic<int>> seen(static_cast<size_t>(pool.size()));
    pool.run(50 * pool.size(), [&](int64_t, int worker) {
        seen[static_cast<size_t>(worker)] = 1;
        sleep_us(500);
    });
    int n = 0;
    for (const auto& one : seen) n += one;
    return n;
}

void check_child(const pid_t child) {
    CHECK(child > 0);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void each_task_once(int size) {
    ThreadPool pool(size);
    for (int repeat = 0; repeat < 6000; ++repeat) {
        const int n = repeat / 2 % 41;
        std::vector<int> count(static_cast<size_t>(n));
        std::vector<std::atomic<int>> busy(static_cast<size_t>(size));
        const auto task = [&](int64_t i, int worker) {
            CHECK(worker >= 0 && worker < size);
            CHECK(busy[static_cast<size_t>(worker)].exchange(1) == 0);
            ++count[static_cast<size_t>(i)];
            busy[static_cast<size_t>(worker)] = 0;
        };
        repeat % 2 == 0 ? pool.run(n, task) : pool.run_shares(n, task);
        for (const int one : count) CHECK(one == 1);
    }
    CHECK(ThreadPool(0).size() == 1 && ThreadPool(-5).size() == 1 && pool.size() == size);
}

void all_workers_work(int size) {
    ThreadPool pool(size);
    CHECK(workers_seen(pool) == size);
    sleep_us(5000);  // they sleep now
    CHECK(workers_seen(pool) == size);
}

// A worker that starts in time has its own share to itself; what one does not get to, others do.
void shares(int size) {
    ThreadPool pool(size);
    constexpr int64_t kTasksOfShare = 6;
    const int64_t n = kTasksOfShare * size;
    CHECK(whisperq::share_begin(n, size, 0) == 0 && whisperq::share_begin(n, size, size) == n);
    std::vector<std::atomic<int64_t>> first(static_cast<size_t>(size));
    for (auto& one : first) one = -1;
    std::atomic<int> n_workers{0};
    pool.run_shares(n, [&](int64_t i, int worker) {
        int64_t none = -1;
        if (first[static_cast<size_t>(worker)].compare_exchange_strong(none, i)) ++n_workers;
        for (int ms = 0; n_workers < size && ms < 2000; ++ms) sleep_us(1000);
    });
    CHECK(n_workers == size);
    for (int worker = 0; worker < size; ++worker) {
        CHECK(first[static_cast<size_t>(worker)] == whisperq::share_begin(n, size, worker));
    }
    std::vector<int> done_by(static_cast<size_t>(n), -1);
    const int64_t held_up = n - kTasksOfShare;  // in the last worker's share
    pool.run_shares(n, [&](int64_t i, int worker) {
        done_by[static_cast<size_t>(i)] = worker;
        if (i == held_up) sleep_us(100'000);
    });
    for (const int worker : done_by) CHECK(worker >= 0);
    const int busy = done_by[static_cast<size_t>(held_up)];
    if (size > 1) CHECK(done_by.back() != busy);
}

void exceptions(int size) {
    ThreadPool pool(size);
    for (int repeat = 0; repeat < 400; ++repeat) {
        const bool in_shares = repeat % 2 != 0;
        const int bad = repeat / 2;
        std::atomic<int> begun{0};
        std::string caught;
        const auto task = [&](int64_t i, int) {
            ++begun;
            if (i == bad) throw std::runtime_error("task " + std::to_string(i));
        };
        try {
            in_shares ? pool.run_shares(1000, task) : pool.run(1000, task);
        } catch (const std::runtime_error& error) {
            caught = error.what();
        }
        CHECK(caught == "task " + std::to_string(bad));
        CHECK(begun > 0);
        if (!in_shares) CHECK(begun > bad);
        if (size == 1) CHECK(begun == bad + 1);
        CHECK(sum_of(pool, 100) == 4950);
    }
}

void nested(int size) {
    ThreadPool pool(size), other(2);
    std::atomic<int> n{0};
    pool.run(20, [&](int64_t, int worker) {
        pool.run(5, [&](int64_t, int inner) {
            CHECK(inner == worker);
            other.run(3, [&](int64_t, int) { ++n; });
        });
        CHECK(sum_of(other, 10) == 45);
    });
    CHECK(n == 20 * 5 * 3);
}

void callers_take_turns(int size) {
    ThreadPool pool(size);
    std::atomic<int> owner{0};  // of the run that is in progress
    std::vector<std::thread> callers;
    for (int c = 1; c <= 4; ++c) {
        callers.emplace_back([&, c] {
            for (int repeat = 0; repeat < 500; ++repeat) {
                std::atomic<int> left{4};
                pool.run(4, [&](int64_t, int) {
                    const int before = owner.exchange(c);
                    CHECK(before == 0 || before == c);
                    if (--left == 0) owner = 0;
                });
            }
        });
    }
    for (std::thread& caller : callers) caller.join();
    callers.clear();
    std::atomic<int64_t> sum{0};
    for (int c = 0; c < 4; ++c) {
        callers.emplace_back([&] {
            for (int repeat = 0; repeat < 500; ++repeat) sum += sum_of(pool, 10);
        });
    }
    for (std::thread& caller : callers) caller.join();
    CHECK(sum == 4 * 500 * 45);
}

void rest_and_go_on(int size) {
    ThreadPool pool(size);
    pool.rest();
    for (int repeat = 0; repeat < 20; ++repeat) {
        CHECK(sum_of(pool, 50) == 1225);
        pool.rest();
        pool.rest();
    }
    CHECK(workers_seen(pool) == size);
    for (int repeat = 0; repeat < 100; ++repeat) {
        ThreadPool short_lived(size);
        CHECK(sum_of(short_lived, 50) == 1225);
    }
}

void idle_burns_nothing(int size) {
    ThreadPool pool(size);
    CHECK(sum_of(pool, 1000) == 499500);
    sleep_us(2000);
    const double before = cpu_seconds();
    sleep_us(200000);
    CHECK(cpu_seconds() - before < 0.002 * size);
}

void signals_stay_with_the_program(int size) {
    ThreadPool pool(size);
    pool.run(20 * size, [&](int64_t, int worker) {
        sigset_t blocked;
        CHECK(pthread_sigmask(SIG_SETMASK, nullptr, &blocked) == 0);
        CHECK(sigismember(&blocked, SIGINT) == (worker == 0 ? 0 : 1));
        CHECK(sigismember(&blocked, SIGSEGV) == 0);
        sleep_us(200);
    });
}

void fork_after_use(int size) {
    auto pool = std::make_unique<ThreadPool>(size);
    CHECK(sum_of(*pool, 100) == 4950);
    const pid_t child = fork();
    if (child == 0) {
        CHECK(workers_seen(*pool) == size);
        const pid_t grandchild = fork();
        if (grandchild == 0) {
            CHECK(sum_of(*pool, 100) == 4950);
            pool.reset();
            std::exit(0);
        }
        check_child(grandchild);
        pool.reset();
        std::exit(0);
    }
    check_child(child);
    CHECK(workers_seen(*pool) == size);

    const pid_t unused = fork();  // a child that only tidies up
    if (unused == 0) {
        pool->rest();
        pool.reset();
        whisperq::rest_shared_pools();
        std::exit(0);
    }
    check_child(unused);
}

void fork_while_running(int size) {
    ThreadPool pool(size);
    std::atomic<bool> stop{false};
    std::thread caller([&] {
        while (!stop) pool.run(20, [](int64_t, int) { sleep_us(30); });
    });
    for (int repeat = 0; repeat < 15; ++repeat) {
        sleep_us(500);
        const pid_t child = fork();
        if (child == 0) std::_Exit(sum_of(pool, 100) == 4950 && workers_seen(pool) == size ? 0 : 1);
        check_child(child);
    }
    stop = true;
    caller.join();
}

void shared(int size) {
    ThreadPool& pool = whisperq::shared_pool(size);
    CHECK(&pool == &whisperq::shared_pool(size) && &pool != &whisperq::shared_pool(size + 1));
    CHECK(pool.size() == size);
    // Numbers of threads that count as the same number share a pool.
    CHECK(&whisperq::shared_pool(5000) == &whisperq::shared_pool(ThreadPool::kMostThreads));
    CHECK(&whisperq::shared_pool(-3) == &whisperq::shared_pool(1));
    CHECK(sum_of(pool, 100) == 4950);
    whisperq::rest_shared_pools();
    CHECK(sum_of(pool, 100) == 4950);
    const pid_t child = fork();
    if (child == 0) {
        CHECK(sum_of(pool, 100) == 4950 && sum_of(whisperq::shared_pool(size), 100) == 4950);
        whisperq::rest_shared_pools();
        std::exit(0);
    }
    check_child(child);
}

// main() returns while threads wait, one of them inside a run().
void exit_under_load(int size) {
    std::thread([size] {
        for (;;) whisperq::shared_pool(size).run(100, [](int64_t, int) { sleep_us(50); });
    }).detach();
    sleep_us(5000);
}

constexpr struct {
    const char* name;
    void (*check)(int size);
} kChecks[] = {
    {"each_task_once", each_task_once},
    {"all_workers_work", all_workers_work},
    {"shares", shares},
    {"exceptions", exceptions},
    {"nested", nested},
    {"callers_take_turns", callers_take_turns},
    {"rest_and_go_on", rest_and_go_on},
    {"idle_burns_nothing", idle_burns_nothing},
    {"signals_stay_with_the_program", signals_stay_with_the_program},
    {"fork_after_use", fork_after_use},
    {"fork_while_running", fork_while_running},
    {"shared", shared},
    {"exit_under_load", exit_under_load},
};

}  // namespace

int main(int argc, char** argv) {
    alarm(60);  // what hangs has failed
    for (const auto& [name, check] : kChecks) {
        if (argc == 1) std::puts(name);
        if (argc != 2 || std::strcmp(argv[1], name) != 0) continue;
        for (const int size : kSizes) check(size);
        return 0;
    }
    return argc == 1 ? 0 : 2;
}
