// Included by mel_frames_<isa>.cpp alone, after WHISPERQ_MEL_LANES and WHISPERQ_MEL_ISA: the same code, compiled for
// each. Everything here has internal linkage, and no header is used that could leave a symbol behind.
//
// Vectors are the compiler's own (GCC, Clang): arithmetic on them is arithmetic on each lane, and there is no step that
// goes across lanes but the transposition of the samples at the start.
//
// The transform is in double precision. In float the rounding of a loud bin reaches all others, some 6e-7 of its
// amplitude, while mels down to 1e-4 of it are kept, and beside filters of different width even less: with a pure tone
// it is seen in the second decimal place of log10. Everything after the power is a sum of positive terms, and float.
#include <cstdint>
#include <cstring>

#include "audio/mel_frames.h"

namespace whisperq::audio {
namespace {

constexpr int kLanes = WHISPERQ_MEL_LANES;
constexpr int kHalf = kLanes / 2;
constexpr int kColumns = kLanes + static_cast<int>(kMoreHops);  // a multiple of 4
constexpr int kHop = static_cast<int>(kHopSamples);

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecInt __attribute__((vector_size(4 * kLanes)));
typedef float HalfVec __attribute__((vector_size(4 * kHalf)));
typedef double Wide __attribute__((vector_size(8 * kHalf)));  // the transform's: half of the frames at a time
typedef float Four __attribute__((vector_size(16)));

inline Wide widen(const float* from) {
    HalfVec v;
    memcpy(&v, from, sizeof v);
    return __builtin_convertvector(v, Wide);
}

inline void narrow(Wide v, float* to) {
    const HalfVec half = __builtin_convertvector(v, HalfVec);
    memcpy(to, &half, sizeof half);
}

inline void store(float* to, Vec v) {
    memcpy(to, &v, sizeof v);
}

inline Vec load(const float* from) {
    Vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

inline Vec repeat(float value) {
    return value - Vec{};
}

struct Complex {
    Wide re, im;
};

inline Complex operator+(Complex a, Complex b) {
    return {a.re + b.re, a.im + b.im};
}

inline Complex operator-(Complex a, Complex b) {
    return {a.re - b.re, a.im - b.im};
}

inline Complex operator*(double a, Complex b) {
    return {a * b.re, a * b.im};
}

inline Complex times_minus_i(Complex a) {
    return {a.im, -a.re};
}

// a * (c - i s)
inline Complex turn(Complex a, double c, double s) {
    return {a.re * c + a.im * s, a.im * c - a.re * s};
}

struct Scratch {
    // Sample j of hop c is hops[j][c], so that sample j of all frames is the vector at hops[j % 160] + j / 160: hops of
    // neighbouring frames are the same, and each is transposed once.
    float hops[kHop][kColumns];
    Complex points[kPoints];  // of the transform, in its own order
    float power[kBins][kLanes];
};

inline void transpose4(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    Four a, b, c, d;
    memcpy(&a, from, sizeof a);
    memcpy(&b, from + from_stride, sizeof b);
    memcpy(&c, from + 2 * from_stride, sizeof c);
    memcpy(&d, from + 3 * from_stride, sizeof d);
#if defined(__clang__) || __GNUC__ >= 12
#define WHISPERQ_SHUFFLE(x, y, i, j, k, l) __builtin_shufflevector(x, y, i, j, k, l)
#else
    typedef int32_t FourInt __attribute__((vector_size(16)));
#define WHISPERQ_SHUFFLE(x, y, i, j, k, l) __builtin_shuffle(x, y, FourInt{i, j, k, l})
#endif
    const Four ab_low = WHISPERQ_SHUFFLE(a, b, 0, 4, 1, 5), ab_high = WHISPERQ_SHUFFLE(a, b, 2, 6, 3, 7);
    const Four cd_low = WHISPERQ_SHUFFLE(c, d, 0, 4, 1, 5), cd_high = WHISPERQ_SHUFFLE(c, d, 2, 6, 3, 7);
    const Four columns[4] = {WHISPERQ_SHUFFLE(ab_low, cd_low, 0, 1, 4, 5), WHISPERQ_SHUFFLE(ab_low, cd_low, 2, 3, 6, 7),
                             WHISPERQ_SHUFFLE(ab_high, cd_high, 0, 1, 4, 5),
                             WHISPERQ_SHUFFLE(ab_high, cd_high, 2, 3, 6, 7)};
#undef WHISPERQ_SHUFFLE
    for (int i = 0; i < 4; ++i) memcpy(to + i * to_stride, &columns[i], sizeof columns[i]);
}

void transpose_hops(const float* samples, Scratch& scratch) {
    for (int j = 0; j < kHop; j += 4) {
        for (int c = 0; c < kColumns; c += 4) {
            transpose4(samples + c * kHopSamples + j, kHopSamples, &scratch.hops[j][c], kColumns);
        }
    }
}

inline Complex windowed_point(int n, int first_lane, const FrameTables& tables, const Scratch& scratch) {
    const int even = 2 * n;  // the odd sample behind it is of the same hop
    const float* samples = &scratch.hops[even % kHop][even / kHop + first_lane];
    return {widen(samples) * tables.window[even], widen(samples + kColumns) * tables.window[even + 1]};
}

inline void transform4(Complex a, Complex b, Complex c, Complex d, Complex* out) {
    const Complex even_sum = a + c, even_difference = a - c;
    const Complex odd_sum = b + d, odd_difference = times_minus_i(b - d);
    out[0] = even_sum + odd_sum;
    out[1] = even_difference + odd_difference;
    out[2] = even_sum - odd_sum;
    out[3] = even_difference - odd_difference;
}

void transform_of_8(int first_lane, const FrameTables& tables, Scratch& scratch) {
    constexpr double kHalfRoot = 0.70710678118654752;
    for (int n2 = 0; n2 < kPoints25; ++n2) {
        Complex in[8], even[4], odd[4];
        for (int n1 = 0; n1 < 8; ++n1) in[n1] = windowed_point(tables.source[n2][n1], first_lane, tables, scratch);
        transform4(in[0], in[2], in[4], in[6], even);
        transform4(in[1], in[3], in[5], in[7], odd);
        odd[1] = kHalfRoot * (odd[1] + times_minus_i(odd[1]));
        odd[2] = times_minus_i(odd[2]);
        odd[3] = kHalfRoot * (times_minus_i(odd[3]) - odd[3]);
        for (int k1 = 0; k1 < 4; ++k1) {
            scratch.points[k1 * kPoints25 + n2] = even[k1] + odd[k1];
            scratch.points[(k1 + 4) * kPoints25 + n2] = even[k1] - odd[k1];
        }
    }
}

// In place, of five points that are `stride` apart.
inline void transform5(Complex* points, int stride) {
    constexpr double kCos1 = 0.30901699437494742, kCos2 = -0.80901699437494742;  // of 2 pi / 5 and 4 pi / 5
    constexpr double kSin1 = 0.95105651629515357, kSin2 = 0.58778525229247313;
    const Complex first = points[0];
    const Complex sum1 = points[stride] + points[4 * stride], difference1 = points[stride] - points[4 * stride];
    const Complex sum2 = points[2 * stride] + points[3 * stride], difference2 = points[2 * stride] - points[3 * stride];
    const Complex real1 = first + kCos1 * sum1 + kCos2 * sum2;
    const Complex real2 = first + kCos2 * sum1 + kCos1 * sum2;
    const Complex turned1 = times_minus_i(kSin1 * difference1 + kSin2 * difference2);
    const Complex turned2 = times_minus_i(kSin2 * difference1 - kSin1 * difference2);
    points[0] = first + sum1 + sum2;
    points[stride] = real1 + turned1;
    points[2 * stride] = real2 + turned2;
    points[3 * stride] = real2 - turned2;
    points[4 * stride] = real1 - turned1;
}

// In place, 25 = 5 * 5: columns of the square [b][a], then its rows. Frequency c + 5 d comes to stand at 5 c + d.
void transform_of_25(const FrameTables& tables, Scratch& scratch) {
    for (int k1 = 0; k1 < kPoints8; ++k1) {
        Complex* points = scratch.points + k1 * kPoints25;
        for (int a = 0; a < 5; ++a) {
            transform5(points + a, 5);
            for (int c = 1; c < 5; ++c) {
                points[a + 5 * c] = turn(points[a + 5 * c], tables.cos25[a][c], tables.sin25[a][c]);
            }
        }
        for (int c = 0; c < 5; ++c) transform5(points + 5 * c, 1);
    }
}

inline Wide squared(Complex a) {
    return a.re * a.re + a.im * a.im;
}

// With Z the transform of even + i * odd samples, E = Z[k] + conj Z[-k] is that of the even ones and O = (Z[k] - conj
// Z[-k]) / i that of the odd ones (twice each; the window has halved them). Bins k and 200 - k are E +- exp(..) O.
void take_power(int first_lane, const FrameTables& tables, Scratch& scratch) {
    for (int k = 0; k <= kPoints / 2; ++k) {
        const Complex low = scratch.points[tables.place[k]];
        const Complex high = scratch.points[tables.place[(kPoints - k) % kPoints]];
        const Complex even{low.re + high.re, low.im - high.im};
        const Complex odd = turn({low.im + high.im, high.re - low.re}, tables.cos400[k], tables.sin400[k]);
        narrow(squared(even + odd), &scratch.power[k][first_lane]);
        narrow(squared(even - odd), &scratch.power[kPoints - k][first_lane]);
    }
}

// log10 of normal numbers, to 5e-7: x = 2^e m with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m - 1) / (m + 1)), whose
// series has |s| <= 0.172 and is cut where it is below 3e-9.
inline Vec log10_of(Vec x) {
    constexpr float kLog10Of2 = 0.30102999566398120f, kTwiceLog10OfE = 0.86858896380650366f;
    constexpr int32_t kBitsOfHalfRoot = 0x3f3504f3, kMantissaBits = 23;
    VecInt bits;
    memcpy(&bits, &x, sizeof bits);
    const VecInt exponent = (bits - kBitsOfHalfRoot) >> kMantissaBits;
    bits -= exponent << kMantissaBits;
    Vec m;
    memcpy(&m, &bits, sizeof m);
    const Vec s = (m - 1.0f) / (m + 1.0f);
    const Vec s2 = s * s;
    const Vec series = (((s2 * (1.0f / 9) + 1.0f / 7) * s2 + 1.0f / 5) * s2 + 1.0f / 3) * s2 * s + s;
    return __builtin_convertvector(exponent, Vec) * kLog10Of2 + series * kTwiceLog10OfE;
}

inline Vec log_of_power(Vec power) {
    const Vec least = repeat(kLeastPower);
    const auto is_heard = power > least;
    return is_heard ? log10_of(is_heard ? power : least) : repeat(kLeastLog);
}

float take_mels(const SparseFilters& filters, const Scratch& scratch, float* out, int64_t out_stride) {
    Vec largest = repeat(kLeastLog);
    for (int m = 0; m < filters.n_mels; ++m) {
        const float* power = scratch.power[filters.first[m]];
        Vec sum{};
        for (int i = filters.begin[m]; i < filters.begin[m + 1]; ++i, power += kLanes) {
            sum += load(power) * filters.weights[i];
        }
        const Vec value = log_of_power(sum);
        largest = value > largest ? value : largest;
        store(out + m * out_stride, value);
    }
    float result = kLeastLog;
    for (int l = 0; l < kLanes; ++l) result = largest[l] > result ? largest[l] : result;
    return result;
}

float compute_frames(const float* samples, const FrameTables& tables, const SparseFilters& filters, uint8_t* memory,
                     float* out, int64_t out_stride) {
    Scratch& scratch = *reinterpret_cast<Scratch*>(memory);
    transpose_hops(samples, scratch);
    for (int first_lane = 0; first_lane < kLanes; first_lane += kHalf) {
        transform_of_8(first_lane, tables, scratch);
        transform_of_25(tables, scratch);
        take_power(first_lane, tables, scratch);
    }
    return take_mels(filters, scratch, out, out_stride);
}

constexpr FrameKernel kKernel{WHISPERQ_MEL_ISA, kLanes, sizeof(Scratch), &compute_frames};

}  // namespace
}  // namespace whisperq::audio
