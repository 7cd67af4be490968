#include "edge/activation_study.h"

#include <algorithm>
#include <cfloat>

#include "core/status.h"
#include "edge/machine.h"
#include "edge/product.h"

namespace whisperq::edge {
namespace {

constexpr float kGreatestCode = 127.0f;
constexpr float kSteps = 255.0f;  // between the codes of a uint8

// A task takes so many rows that its start costs nothing.
constexpr int64_t kRowsAtOnce = 8;

bool is_of_a_layer(const Linear& linear) {
    return linear.name.find(".blocks.") != std::string::npos;
}

// To nearest, ties to even, for |x| < 2^22: floats around 1.5 * 2^23 are the whole numbers. Unlike nearbyint it is no
// call where the baseline has no instruction for it.
float rounded(float x) {
    constexpr float kWholeNumbers = 12582912.0f;
    return (x + kWholeNumbers) - kWholeNumbers;
}

float clamped(float x, float least, float greatest) {
    const float from_below = x < least ? least : x;
    return from_below > greatest ? greatest : from_below;
}

float scale_or_zero(float scale) {
    return scale < FLT_MIN ? 0.0f : scale;
}

void round_symmetric(const float* values, int64_t n, float greatest, float* out) {
    const float scale = scale_or_zero(greatest / kGreatestCode);
    if (scale == 0.0f) {
        std::fill_n(out, n, 0.0f);
        return;
    }
    for (int64_t i = 0; i < n; ++i) out[i] = scale * rounded(clamped(values[i] / scale, -kGreatestCode, kGreatestCode));
}

void round_asymmetric(const float* values, int64_t n, float least, float greatest, float* out) {
    const float scale = scale_or_zero((greatest - least) / kSteps);
    if (scale == 0.0f) {
        std::fill_n(out, n, 0.0f);
        return;
    }
    const float zero_point = rounded(clamped(-least / scale, 0.0f, kSteps));
    for (int64_t i = 0; i < n; ++i) {
        const float code = rounded(clamped(values[i] / scale, -kSteps, kSteps)) + zero_point;
        out[i] = scale * (clamped(code, 0.0f, kSteps) - zero_point);
    }
}

}  // namespace

std::vector<const Linear*> chosen_linears(const std::vector<const Linear*>& linears,
                                          const ActivationRounding& rounding) {
    if (rounding.scheme == ActivationScheme::none) return {};
    std::vector<const Linear*> chosen;
    for (const Linear* linear : linears) {
        const bool is_chosen = rounding.only ? rounding.only->count(linear->name) > 0
                                             : rounding.scheme == ActivationScheme::observe || is_of_a_layer(*linear);
        if (is_chosen) chosen.push_back(linear);
    }
    return chosen;
}

void ActivationStudy::start(const std::vector<const Linear*>& linears, ActivationRounding rounding) {
    for (const Linear* linear : linears) {
        const kernels::FormatInfo& format = kernels::info(linear->format);
        if (rounding.scheme == ActivationScheme::none || format.bits == 0) continue;
        throw Error(Status::unsupported_model,
                    linear->name + " is of type " + std::string(format.name) +
                        ", whose product rounds its input itself; activations can be studied in models of f32 and f16 "
                        "only: take the file that this one was made of");
    }
    std::unordered_map<const Linear*, float> chosen;
    for (const Linear* linear : chosen_linears(linears, rounding)) {
        const auto range = rounding.ranges.find(linear->name);
        if (rounding.scheme == ActivationScheme::fixed && range == rounding.ranges.end()) {
            throw Error(Status::internal, "no range for the inputs of " + linear->name);
        }
        chosen[linear] = range == rounding.ranges.end() ? 0.0f : range->second;
    }
    if (rounding.scheme == ActivationScheme::observe) observed_.clear();
    chosen_ = std::move(chosen);
    rounding_ = std::move(rounding);
}

Rows ActivationStudy::seen_by(const Linear& linear, const Rows& input, ThreadPool& pool) {
    if (chosen_.count(&linear) == 0) return input;
    if (rounding_.scheme == ActivationScheme::observe) {
        observe(linear, input, pool);
        return input;
    }
    const int64_t k = linear.k;
    const std::vector<Range> ranges = ranges_for(linear, input, pool);
    float* out = reserve_floats(rounded_, input.m * k);
    pool.run(ceil_divide(input.m, kRowsAtOnce), [&](int64_t task, int) {
        const int64_t end = std::min(input.m, (task + 1) * kRowsAtOnce);
        for (int64_t row = task * kRowsAtOnce; row < end; ++row) {
            const float* values = input.data + row * input.stride;
            if (rounding_.scheme == ActivationScheme::block) {
                round_in_blocks(values, k, out + row * k);
            } else {
                round(values, k, ranges[static_cast<size_t>(row)], out + row * k);
            }
        }
    });
    return {out, input.m, k};
}

void ActivationStudy::Range::include(const Range& other) {
    least = std::min(least, other.least);
    greatest = std::max(greatest, other.greatest);
}

// In lanes, so that the compiler can take a vector at a time.
ActivationStudy::Range ActivationStudy::range_of(const float* values, int64_t n) {
    constexpr int64_t kLanes = 16;
    float least[kLanes] = {}, greatest[kLanes] = {};
    const auto include = [&](int64_t lane, float value) {
        least[lane] = value < least[lane] ? value : least[lane];
        greatest[lane] = value > greatest[lane] ? value : greatest[lane];
    };
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (int64_t lane = 0; lane < kLanes; ++lane) include(lane, values[i + lane]);
    }
    for (; i < n; ++i) include(0, values[i]);
    return {*std::min_element(least, least + kLanes), *std::max_element(greatest, greatest + kLanes)};
}

std::vector<ActivationStudy::Range> ActivationStudy::ranges_of_rows(const Rows& input, int64_t k, ThreadPool& pool) {
    std::vector<Range> ranges(static_cast<size_t>(input.m));
    pool.run(ceil_divide(input.m, kRowsAtOnce), [&](int64_t task, int) {
        const int64_t end = std::min(input.m, (task + 1) * kRowsAtOnce);
        for (int64_t row = task * kRowsAtOnce; row < end; ++row) {
            ranges[static_cast<size_t>(row)] = range_of(input.data + row * input.stride, k);
        }
    });
    return ranges;
}

// Return a range for each row; none where blocks have their own.
std::vector<ActivationStudy::Range> ActivationStudy::ranges_for(const Linear& linear, const Rows& input,
                                                                ThreadPool& pool) const {
    if (rounding_.scheme == ActivationScheme::block) return {};
    if (rounding_.scheme == ActivationScheme::fixed) {
        const float greatest = chosen_.at(&linear);
        return std::vector<Range>(static_cast<size_t>(input.m), Range{-greatest, greatest});
    }
    std::vector<Range> ranges = ranges_of_rows(input, linear.k, pool);
    if (rounding_.scheme == ActivationScheme::tensor) share_within_groups(ranges);
    return ranges;
}

void ActivationStudy::share_within_groups(std::vector<Range>& ranges) const {
    const std::vector<int64_t> all{static_cast<int64_t>(ranges.size())};
    auto first = ranges.begin();
    for (const int64_t n_rows : groups_.empty() ? all : groups_) {
        if (n_rows > ranges.end() - first) throw Error(Status::internal, "more rows in groups than in the input");
        Range shared;
        for (auto range = first; range != first + n_rows; ++range) shared.include(*range);
        std::fill_n(first, n_rows, shared);
        first += n_rows;
    }
    if (first != ranges.end()) throw Error(Status::internal, "fewer rows in groups than in the input");
}

void ActivationStudy::observe(const Linear& linear, const Rows& input, ThreadPool& pool) {
    float& greatest = observed_[linear.name];
    for (const Range& range : ranges_of_rows(input, linear.k, pool)) {
        greatest = std::max({greatest, -range.least, range.greatest});
    }
}

void ActivationStudy::round(const float* values, int64_t n, const Range& range, float* out) const {
    if (rounding_.symmetric) {
        round_symmetric(values, n, std::max(-range.least, range.greatest), out);
    } else {
        round_asymmetric(values, n, range.least, range.greatest, out);
    }
}

void ActivationStudy::round_in_blocks(const float* values, int64_t n, float* out) const {
    for (int64_t i = 0; i < n; i += rounding_.block) {
        const int64_t size = std::min(rounding_.block, n - i);
        round(values + i, size, range_of(values + i, size), out + i);
    }
}

}  // namespace whisperq::edge
