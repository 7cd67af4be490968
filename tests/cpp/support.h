// What the checks of the kernels share: numbers to compute with, buffers that notice a touch outside, and the report.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/tolerances.h"

namespace check {

namespace k = whisperq::kernels;

// ---- Numbers --------------------------------------------------------------------------------------------------------

// The same numbers on every machine (what the standard library's distributions do not promise).
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}

    uint64_t bits() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_;
    }
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
    int64_t below(int64_t n) { return static_cast<int64_t>(bits() >> 33) % n; }
    // Bell-shaped, variance 1: the sum of twelve.
    float normal() {
        double sum = -6.0;
        for (int i = 0; i < 12; ++i) sum += uniform();
        return static_cast<float>(sum);
    }
    // An f16 of 2^(low - 15) to 2^(high - 14), either sign.
    uint16_t half(int low, int high) {
        const auto exponent = static_cast<uint64_t>(low + below(high - low + 1));
        return static_cast<uint16_t>((bits() >> 20 & 0x8000) | exponent << 10 | (bits() >> 30 & 0x3ff));
    }

  private:
    uint64_t state_;
};

inline double half_value(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const double magnitude = exponent == 31  ? (fraction ? std::nan("") : HUGE_VAL)
                             : exponent == 0 ? std::ldexp(fraction, -24)
                                             : std::ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

inline double gelu_value(double x) {
    return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
}

// ---- Memory ---------------------------------------------------------------------------------------------------------

// Whether the page behind an array may be read: --readable-guards.
inline bool& guards_are_readable() {
    static bool are_readable = false;
    return are_readable;
}

// `n` values, aligned as the kernels are promised. Before them and in what alignment leaves after them lie bytes that
// must stay as they are (and are NaN to who computes with them); a page behind that ends the program when touched.
template <typename T>
class Guarded {
  public:
    explicit Guarded(int64_t n) : n_(static_cast<size_t>(n)) {
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        const size_t bytes = (n_ * sizeof(T) + k::kAlignment - 1) / k::kAlignment * k::kAlignment;
        usable_ = (bytes + kBefore + page - 1) / page * page;
        mapped_ = usable_ + page;
        void* at = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        const int may = guards_are_readable() ? PROT_READ : PROT_NONE;
        if (at == MAP_FAILED || mprotect(static_cast<uint8_t*>(at) + usable_, page, may) != 0) {
            std::perror("memory for a check");
            std::abort();
        }
        base_ = static_cast<uint8_t*>(at);
        data_ = reinterpret_cast<T*>(base_ + usable_ - bytes);
        std::memset(base_, kFill, usable_);
    }
    ~Guarded() { munmap(base_, mapped_); }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;

    T* data() { return data_; }
    const T* data() const { return data_; }
    T& operator[](int64_t i) { return data_[i]; }
    const T& operator[](int64_t i) const { return data_[i]; }
    int64_t size() const { return static_cast<int64_t>(n_); }
    void forget() { std::memset(base_, kFill, usable_); }

    // Nothing but the values was written.
    bool intact() const {
        const auto* first = reinterpret_cast<const uint8_t*>(data_);
        const uint8_t* before = first - kBefore > base_ ? first - kBefore : base_;
        return filled(before, first) && filled(first + n_ * sizeof(T), base_ + usable_);
    }
    // Values [first, last) were not written.
    bool untouched(int64_t first, int64_t last) const {
        return filled(reinterpret_cast<const uint8_t*>(data_ + first), reinterpret_cast<const uint8_t*>(data_ + last));
    }

  private:
    static constexpr size_t kBefore = 1024;
    static constexpr int kFill = 0xff;

    static bool filled(const uint8_t* from, const uint8_t* to) {
        for (; from < to; ++from) {
            if (*from != kFill) return false;
        }
        return true;
    }

    size_t n_, usable_, mapped_;
    uint8_t* base_;
    T* data_;
};

// ---- Report ---------------------------------------------------------------------------------------------------------

using k::kEps;

// What one kernel of one ISA was found to do. Prints the first failures as they come.
class Report {
  public:
    Report(const char* isa, const char* kernel) : isa_(isa), kernel_(kernel) { current() = this; }

    // Where the next comparisons are, for the messages, and for who reads a crash.
    [[gnu::format(printf, 2, 3)]] void at(const char* format, ...) {
        va_list arguments;
        va_start(arguments, format);
        std::vsnprintf(place_, sizeof place_, format, arguments);
        va_end(arguments);
    }

    // |got - want| <= tolerance, which NaN is not.
    void compare(double got, double want, double tolerance, const char* what, int64_t row = 0, int64_t column = 0) {
        ++count_;
        const double error = std::fabs(got - want);
        if (error <= tolerance) {
            if (tolerance > 0 && error / tolerance > worst_) worst_ = error / tolerance;
            return;
        }
        char message[200];
        std::snprintf(message, sizeof message, "%s [%lld][%lld]: %.9g, want %.9g +- %.3g", what,
                      static_cast<long long>(row), static_cast<long long>(column), got, want, tolerance);
        fail(message);
    }

    void require(bool holds, const char* what) {
        ++count_;
        if (!holds) fail(what);
    }

    void crashed(int signal) const {
        std::fprintf(stderr, "FAIL %s %s, %s: signal %d\n", isa_, kernel_, place_, signal);
    }

    const char* isa() const { return isa_; }
    const char* kernel() const { return kernel_; }
    int64_t count() const { return count_; }
    int64_t failures() const { return failures_; }
    double worst() const { return worst_; }

    static const Report*& current() {
        static const Report* report = nullptr;
        return report;
    }

  private:
    void fail(const char* message) {
        constexpr int64_t kShown = 5;
        if (++failures_ <= kShown) std::fprintf(stderr, "FAIL %s %s, %s: %s\n", isa_, kernel_, place_, message);
    }

    const char* isa_;
    const char* kernel_;
    char place_[200] = "";
    int64_t count_ = 0, failures_ = 0;
    double worst_ = 0.0;
};

}  // namespace check
