// What a self-test finds: the first number that is not what it should be.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace whisperq {

struct Finding {
    std::string kernel;  // the name of its entry: multiply_strip
    std::string where;   // the case: "q8_0, 3 rows"
    int64_t index;       // of the value among the results
    double got, expected, tolerance;
};

// Compares results with known answers, and keeps the first that is wrong.
class Findings {
  public:
    // `fault`: a kernel whose results count as wrong, whatever they are, so that what follows a failure can be tested.
    explicit Findings(std::string fault = "") : fault_(std::move(fault)) {}

    // Which results come next.
    void at(const char* kernel, std::string where) {
        kernel_ = kernel;
        where_ = std::move(where);
    }

    // |got - expected| <= tolerance, which NaN is not; two NaN are the same.
    void compare(double got, double expected, double tolerance, int64_t index = 0) {
        ++count_;
        if (fault_ == kernel_) got += 1.0 + std::fabs(got);
        const bool is_right =
            std::fabs(got - expected) <= tolerance || got == expected || (std::isnan(got) && std::isnan(expected));
        if (!is_right && !first_) first_ = Finding{kernel_, where_, index, got, expected, tolerance};
    }

    int64_t count() const noexcept { return count_; }
    const std::optional<Finding>& first() const noexcept { return first_; }

  private:
    std::string fault_, kernel_, where_;
    int64_t count_ = 0;
    std::optional<Finding> first_;
};

}  // namespace whisperq
